"""A module and a criterion as a pure loss."""
