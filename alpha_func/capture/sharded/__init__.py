"""Captured losses of parameters that no process holds whole: gathered at their first use, freed after the last."""
