"""What the library raises and warns of."""


class StrategyError(RuntimeError):
    """PyTorch cannot run a strategy on an operator of the loss; the message names both and what to do."""


class CaptureError(RuntimeError):
    """A loss cannot be captured as a program; the message names the operator or line, and the remedy."""


class ImpureLossError(ValueError):
    """A loss is no function of its parameters; the message names what it reads, changes or draws, and the remedy."""


class ObserverError(RuntimeError):
    """An observer cannot measure the loop's steps as it was set up; the message says what to mend."""


class DistributedError(RuntimeError):
    """A reduction over ranks did not come about: one of them failed, hangs, or has other parameters."""


class BatchDependenceWarning(UserWarning):
    """The loss of a batch is not made of the losses of its examples: sums over batches are not the big batch's."""
