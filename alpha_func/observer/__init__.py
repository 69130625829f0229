"""α* through a training run: the experiment, its records, its pictures, the command line."""
