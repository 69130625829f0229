"""A finished program, run: backends, memory, and what the verbs ask of it."""
