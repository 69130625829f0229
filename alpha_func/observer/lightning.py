"""α* in Lightning: ``Trainer(callbacks=[LightningObserver(every=10)])``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from alpha_func.observer.extras import required
from alpha_func.observer.loggers import record_numbers
from alpha_func.observer.observer import Observer
from alpha_func.observer.record import StepRecord

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    Callback = required("lightning.pytorch", "lightning").Callback


class LightningObserver(Callback):
    """Measures the steps of a Lightning run, as an ``Observer`` does.

    The loss is what ``training_step(batch, 0)`` returns, with ``self.log`` and ``self.log_dict`` silent while it is
    measured. A ``training_step`` that does more than compute a loss (metrics that keep state, manual optimization) is
    not for that: give ``loss``.

    Args:
        loss: ``loss(lightning_module, batch)`` to a 0-d tensor, to be used instead of ``training_step``.
        log: as for ``Observer``; None gives the records to the loggers of the trainer as ``alpha_func/...``.
        options: further ones of ``Observer``: ``every``, ``measure_on`` (of the loss's arguments: ``(batch,)``),
            ``strategy``, ``backend``, ``start``.

    Raises:
        ImportError: lightning is not installed, where this module is imported.
        ValueError: when training starts, the module steps its optimizers itself, has several, or has torchmetrics and
            no ``loss`` is given.
    """

    def __init__(self, *, loss: Callable[[Any, Any], Tensor] | None = None, log: Any = None, **options: Any):
        super().__init__()
        self._loss, self._log, self._options = loss, log, options
        self.observer: Observer | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to observe the optimizer."""
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise ValueError(
                f"LightningObserver takes automatic optimization with one optimizer, got {len(trainer.optimizers)}"
                f"{'' if pl_module.automatic_optimization else ' and manual optimization'}: "
                "put an alpha_func.Observer for each optimizer in training_step"
            )
        if self._loss is None:
            _require_no_metrics(pl_module)

        def to_loggers(record: StepRecord) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(record_numbers(record, "alpha_func/"), step=trainer.global_step)

        self.observer = Observer(
            _TrainingStep(pl_module, self._loss),
            None,
            trainer.optimizers[0],
            log=to_loggers if self._log is None else self._log,
            **self._options,
        )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Show the observer the batch."""
        if self.observer is not None:
            self.observer.forward_begins()
            self.observer.batch(batch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave."""
        self._leave()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave."""
        self._leave()

    def _leave(self) -> None:
        if self.observer is not None:
            self.observer.close()


class _TrainingStep(nn.Module):
    """A batch to the loss of it."""

    def __init__(self, module: Any, loss: Callable[[Any, Any], Tensor] | None):
        super().__init__()
        self.module, self._loss = module, loss

    def forward(self, batch: Any) -> Any:
        if self._loss is not None:
            return self._loss(self.module, batch)
        for name in ("log", "log_dict"):  # put back with every other attribute that a measured forward sets
            vars(self.module)[name] = _silent
        return self.module.training_step(batch, 0)


def _silent(*args: Any, **kwargs: Any) -> None:
    """Nothing."""


def _require_no_metrics(module: nn.Module) -> None:
    metric = required("torchmetrics", "lightning").Metric
    found = [name for name, part in module.named_modules() if isinstance(part, metric)]
    if found:
        raise ValueError(
            f"the module has torchmetrics ({', '.join(found[:3])}), which training_step would update once more at "
            "every measured step: give LightningObserver(loss=...), the loss alone as a function of (module, batch)"
        )
