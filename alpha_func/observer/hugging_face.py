"""α* in the Hugging Face Trainer: ``Trainer(..., callbacks=[TrainerObserver(every=10, log=print)])``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from alpha_func.errors import ObserverError
from alpha_func.observer.extras import required
from alpha_func.observer.observer import Observer

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
else:
    TrainerCallback = required("transformers", "transformers").TrainerCallback
    Trainer = required("transformers", "transformers").Trainer


class TrainerObserver(TrainerCallback):
    """Measures the steps of a Hugging Face Trainer, as an ``Observer`` does.

    The loss is the Trainer's own ``compute_loss``, with label smoothing, ``compute_loss_func``, ``num_items_in_batch``
    and whatever a Trainer of your own does there.

    Args:
        options: those of ``Observer``: ``log``, ``every``, ``measure_on`` (a tuple of the inputs, a dict, and the
            number of items or None), ``loss_after``, ``strategy``, ``backend``, ``start``.

    Raises:
        ImportError: transformers is not installed, where this module is imported.
        ObserverError: when training starts, no Trainer is found that calls it.
    """

    def __init__(self, **options: object):
        self._options = options
        self.observer: Observer | None = None
        self._trainer: Trainer | None = None

    def on_train_begin(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: Any
    ) -> None:
        """Begin to observe the optimizer."""
        self._leave()  # a run before this one may have ended in an error
        trainer = _calling_trainer()
        compute, module = trainer.compute_loss, kwargs["model"]

        def loss_of(model: nn.Module, inputs: dict[str, object], items: object) -> Tensor:
            with _without_autocast_of_its_own(model):
                return _loss(compute(model, dict(inputs), num_items_in_batch=items))

        def watched(model: nn.Module, inputs: dict[str, object], *further: object, **named: object) -> object:
            given = dict(inputs)  # compute_loss takes the labels out
            found = compute(model, inputs, *further, **named)
            if self.observer is not None and module.training:
                items = named.get("num_items_in_batch", further[1] if len(further) > 1 else None)
                self.observer.batch(given, items, loss=_loss(found))
            return found

        options = {"start": state.global_step, **self._options}
        self.observer = Observer(module, None, kwargs["optimizer"], loss_of=loss_of, **options)
        self._trainer, trainer.compute_loss = trainer, watched

    def on_train_end(
        self, args: "TrainingArguments", state: "TrainerState", control: "TrainerControl", **kwargs: object
    ) -> None:
        """Leave."""
        self._leave()

    def _leave(self) -> None:
        if self.observer is not None:
            assert self._trainer is not None
            del self._trainer.compute_loss  # the class's own again
            self.observer.close()
            self.observer = self._trainer = None


def _loss(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) else found


def _calling_trainer() -> Trainer:
    """The Trainer whose training calls this: callbacks are not told."""
    frame = sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), Trainer):
            return frame.f_locals["self"]
        frame = frame.f_back  # type: ignore[assignment]
    raise ObserverError("TrainerObserver is a callback of a transformers.Trainer: Trainer(..., callbacks=[...])")


@contextmanager
def _without_autocast_of_its_own(model: nn.Module) -> Iterator[None]:
    """Accelerate wraps the model's forward in autocast; the curvature is float32's."""
    own = vars(model)
    wrapped = own.get("forward") if "_original_forward" in own else None
    if wrapped is not None:
        own["forward"] = own["_original_forward"]
    try:
        yield
    finally:
        if wrapped is not None:
            own["forward"] = wrapped
