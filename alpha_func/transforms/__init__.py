"""The verbs: a loss in, a pure function out; and the compositions of torch.func behind them."""
