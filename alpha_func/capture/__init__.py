"""A loss as a program of primitive operators, and programs made of it."""
