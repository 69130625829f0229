"""The command line: a whole training run, its files and its pictures."""
