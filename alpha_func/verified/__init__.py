"""Which operators are right to second order, under which strategy, as measured."""
