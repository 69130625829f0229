"""What exactness costs, measured: each module prints its own table."""
