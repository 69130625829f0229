"""Whether what α* suggests is so: each a command that prints its table."""
