"""From a loss to a program of primitive operators."""
