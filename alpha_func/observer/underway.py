"""What is kept of a step while it is taken: θ before it, and the gradient that the optimizers were given."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from alpha_func.observer import setup
from alpha_func.observer.batches import Batch
from alpha_func.observer.forwards import Watch, versions
from alpha_func.observer.pending import Pending
from alpha_func.observer.recording import Taken
from alpha_func.observer.snapshot import Snapshot, gradients, snapshot, trained


class Underway:
    """A step of optimizers, from its beginning until it has been taken.

    Args:
        module: whose parameters they step.
        optimizers: the optimizers.
        pending: the batches of the step.

    Attributes:
        before: θ, once the step has begun.
        evaluated: whether a closure within the step has made its gradient.
    """

    def __init__(self, module: nn.Module, optimizers: Sequence[Optimizer], pending: Pending):
        self._module, self._optimizers, self._pending = module, optimizers, pending
        self._params: Mapping[str, nn.Parameter] = {}
        self.forget()

    before: Snapshot | None

    def forget(self) -> None:
        """Wait for the next step."""
        self.before = None
        self._grads: dict[str, Tensor] = {}
        self._weights_moved = self.evaluated = False

    def begin(self) -> None:
        """Keep θ."""
        setup.check_parameters(self._module, self._optimizers)  # a group may have been added
        self._params = trained(self._module, self._optimizers)
        self.before = snapshot(self._params, self._optimizers)
        self._weights_moved = self._pending.written_since(versions(self._module))

    def closure_evaluated(self, loss: object) -> None:
        """Keep the gradient at θ: the optimizer may evaluate the closure elsewhere."""
        self._grads = {name: grad.clone() for name, grad in gradients(self._params).items()}
        self._pending.assign()
        batches = self._pending.batches
        if len(batches) == 1 and batches[0].loss is None and isinstance(loss, Tensor | float):
            batches[0] = batches[0]._replace(loss=loss.detach() if isinstance(loss, Tensor) else loss)
        self._weights_moved = self._pending.written_since(versions(self._module))
        self.evaluated = True

    def stepped(self, optimizer: Optimizer) -> None:
        """Keep the gradient that an optimizer was given, before the loop lets go of it."""
        if self.before is not None and not self.evaluated:
            self._grads = {**self._grads, **gradients(trained(self._module, [optimizer]))}

    def taken(self, step: int, batches: Sequence[Batch], watch: Watch, *, own: bool) -> Taken:
        """The step, now that it has been taken.

        Args:
            step: its number.
            batches: what it is to be measured on.
            watch: what saw its forwards, and sees no more.
            own: whether these are the step's own batches.
        """
        assert self.before is not None
        calls, autocast = watch.calls, watch.autocast
        watch.disarm()
        return Taken(step, self.before, self._params, self._grads, batches, own, calls, self._weights_moved, autocast)
