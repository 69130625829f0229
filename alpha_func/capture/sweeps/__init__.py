"""The programs that give the quadratic: Taylor forward, adjoint backward."""
