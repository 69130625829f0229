"""The step of any torch.optim optimizer as a pure function."""
