"""α* in the Hugging Face Trainer: ``Trainer(..., callbacks=[TrainerObserver(every=10, log=print)])``."""

from typing import TYPE_CHECKING, Any

from torch import nn

from alpha_func.observer.extras import required
from alpha_func.observer.observer import Observer

if TYPE_CHECKING:
    from transformers import TrainerCallback
else:
    TrainerCallback = required("transformers", "transformers").TrainerCallback


class TrainerObserver(TrainerCallback):
    """Measures the steps of a Hugging Face Trainer, as an ``Observer`` does.

    The loss is the model's own, of the arguments that the Trainer calls it with. A Trainer that computes another
    (``compute_loss_func``, an overridden ``compute_loss``) is not to be observed so: it would be measured on a loss
    that it does not train.

    Args:
        options: those of ``Observer``: ``log``, ``every``, ``measure_on`` (a dict of the model's arguments),
            ``strategy``, ``backend``, ``start``.

    Raises:
        ImportError: transformers is not installed, where this module is imported.
        ValueError: when training starts, the Trainer smooths its labels, which is a loss of its own.
    """

    def __init__(self, **options: Any):
        self._options = options
        self.observer: Observer | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to observe the optimizer."""
        if args.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={args.label_smoothing_factor} makes the Trainer compute a loss of its own: "
                "set it to 0, and smooth in the model, or observe a loop of your own with alpha_func.Observer"
            )
        self._leave()  # a run before this one may have ended in an error
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        options = {"start": state.global_step, **self._options}
        self.observer = Observer(_Unwrapped(model), None, optimizer, **options)
        self._hook = model.register_forward_pre_hook(self._on_forward, with_kwargs=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave."""
        self._leave()

    def _leave(self) -> None:
        if self.observer is not None:
            self._hook.remove()
            self.observer.close()
            self.observer = None

    def _on_forward(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        observer = self.observer
        if observer is None or not module.training:
            return
        observer.forward_begins()
        observer.batch(*args, **kwargs)


class _Unwrapped(nn.Module):
    """The model without the autocast that Accelerate wraps its forward in: the curvature is float32's."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.model, "_original_forward", self.model)(*args, **kwargs)
