"""The batches of the step about to be taken, each with what its forward began with; not those that were abandoned."""

from collections.abc import Callable, Iterable

from torch import Tensor

from alpha_func.errors import ObserverError
from alpha_func.observer.batches import Batch
from alpha_func.observer.forwards import Watch
from alpha_func.shards import local

KEPT_BATCHES = 1024  # between two steps
_NONE = (
    "the step has no batch to be measured on: call observer.batch(inputs, targets) before optimizer.step(), or pass "
    "Observer(..., measure_on=...)"
)
_DROPPED = (
    "the step has no batch to be measured on: the gradient was set to zero after observer.batch, so that its batches "
    "were dropped as those of another step; call observer.batch for the backward pass that the step is made of"
)


class Pending:
    """The batches that were handed over since the last step.

    Args:
        watch: sees the forwards.
        gradients: of the trained parameters, as they are at a call.
    """

    def __init__(self, watch: Watch, gradients: Callable[[], Iterable[Tensor]]):
        self._watch, self._gradients = watch, gradients
        self.batches: list[Batch] = []
        self.forget()

    def forget(self) -> None:
        """Begin with a new step."""
        self.batches.clear()
        self._with_gradient = self._dropped = 0
        self._last_gradient: list[tuple[int, int]] = []

    def begin(self) -> None:
        """What gradient there is now is not of the batches to come."""
        self._last_gradient = _stamps(self._gradients())

    def add(self, batch: Batch) -> None:
        """A batch was handed over, after its forward or before it."""
        self.drop_abandoned()
        self.assign()
        if len(self.batches) < KEPT_BATCHES:
            self.batches.append(self._begun(batch))
        self.drop_abandoned()

    def assign(self) -> None:
        """Give the beginnings of forwards to batches that were handed over before them."""
        self.batches = [batch if batch.beginning else self._begun(batch) for batch in self.batches]

    def of_step(self) -> list[Batch]:
        """The batches that the step which is taken now is measured on."""
        if not self.batches:
            raise ObserverError(_DROPPED if self._dropped else _NONE)
        self.assign()
        return list(self.batches)

    def drop_abandoned(self) -> None:
        """Drop the batches whose gradient is gone: their step was never taken."""
        if not self.batches:
            return
        grads = list(self._gradients())
        if any(bool(local(grad).any()) for grad in grads):  # on each rank by itself
            if _stamps(grads) != self._last_gradient:
                self._with_gradient = len(self.batches)
        else:
            del self.batches[: self._with_gradient]
            self._dropped += self._with_gradient
            self._with_gradient = 0

    def written_since(self, versions: list[int]) -> bool:
        """Whether the parameters, whose versions these are, changed since a forward began."""
        return any(batch.beginning is not None and batch.beginning.weights != versions for batch in self.batches)

    def _begun(self, batch: Batch) -> Batch:
        """The batch with the beginning of its forward: of the call that had its tensors, else of the first."""
        begun = self._watch.begun
        if not begun:
            return batch
        own = [each for each in begun if batch.tensors.keys() & each.tensors.keys()]
        found = own[-1] if own else begun[0]
        begun.clear()
        changed = any(batch.tensors.get(key, version) != version for key, version in found.tensors.items())
        return batch._replace(beginning=found, changed=changed)


def _stamps(grads: Iterable[Tensor]) -> list[tuple[int, int]]:
    """What tells whether gradients have been made anew or added to."""
    return [(id(grad), grad._version) for grad in grads]
