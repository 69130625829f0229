"""α* in Lightning: ``Trainer(callbacks=[LightningObserver(every=10)])``."""

import dis
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from alpha_func.calls import Function
from alpha_func.observer.extras import required
from alpha_func.observer.loggers import record_numbers
from alpha_func.observer.observer import Observer
from alpha_func.observer.record import StepRecord

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = required("lightning.pytorch", "lightning").Callback

PREFIX = "alpha_func/"


class LightningObserver(Callback):
    """Measures the steps of a Lightning run, as an ``Observer`` does.

    The loss is what ``training_step`` returns for the batch and its index, with ``self.log`` and ``self.log_dict``
    silent while it is measured. If ``training_step`` does more than compute a loss (metrics that keep state, manual
    optimization), pass ``loss``. The numbers are in ``trainer.callback_metrics`` as ``alpha_func/...``,
    α* in the progress bar too.

    Args:
        loss: ``loss(lightning_module, batch)`` or ``loss(lightning_module, batch, batch_idx)`` to a 0-d tensor, to be
            used instead of ``training_step``.
        optimizer: which of several optimizers, by its number; or several of them, which step together. One callback
            for each network of a GAN.
        log: as for ``Observer``; None gives the records to the loggers of the trainer.
        options: further ones of ``Observer``: ``every``, ``measure_on`` (of the loss's arguments: ``(batch, 0)``),
            ``loss_after``, ``strategy``, ``backend``, ``start``.

    Raises:
        ImportError: lightning is not installed, where this module is imported.
        ValueError: when training starts, the module uses manual optimization, or has torchmetrics, and no ``loss`` is
            given; or it has several optimizers, and ``optimizer`` does not say which.
    """

    def __init__(
        self,
        *,
        loss: Callable[..., Tensor] | None = None,
        optimizer: int | Sequence[int] | None = None,
        log: Any = None,
        **options: Any,
    ):
        super().__init__()
        self._loss, self._which, self._log, self._options = loss, optimizer, log, options
        self.observer: Observer | None = None
        self._shown: StepRecord | None = None

    def on_train_start(self, trainer: "Trainer", pl_module: "LightningModule") -> None:
        """Begin to observe the optimizer."""
        if self._loss is None:
            _require_a_loss(pl_module)

        def to_loggers(record: StepRecord) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(record_numbers(record, PREFIX), step=trainer.global_step)

        loss = self._loss or type(pl_module).training_step
        takes_index = _takes(loss, 3)
        self._reads_index = takes_index and _reads_third(loss)

        def loss_of(module: "LightningModule", batch: Any, batch_idx: int) -> Tensor:
            with _silent(module):
                found = loss(module, batch, batch_idx) if takes_index else loss(module, batch)
            return found["loss"] if isinstance(found, dict) else found

        self.observer = Observer(
            pl_module,
            None,
            [trainer.optimizers[i] for i in self._chosen(trainer)],
            loss_of=loss_of,
            log=to_loggers if self._log is None else self._log,
            **self._options,
        )

    def on_train_batch_start(
        self, trainer: "Trainer", pl_module: "LightningModule", batch: object, batch_idx: int
    ) -> None:
        """Show the observer the batch."""
        if self.observer is not None:
            # A program is captured for each number that it is called with: not for one that it does not read.
            self.observer.batch(batch, batch_idx if self._reads_index else 0)

    def on_train_batch_end(
        self, trainer: "Trainer", pl_module: "LightningModule", outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Show the numbers of a record."""
        record = None if self.observer is None else self.observer.last
        if record is None or record is self._shown:
            return
        self._shown = record
        numbers = record_numbers(record, PREFIX)
        alpha = f"{PREFIX}alpha_steps"
        pl_module.log(alpha, numbers.pop(alpha), prog_bar=True, logger=False, on_step=True, on_epoch=False)
        pl_module.log_dict(numbers, logger=False, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: object, pl_module: object) -> None:
        """Leave."""
        self._leave()

    def on_exception(self, trainer: "Trainer", pl_module: "LightningModule", exception: BaseException) -> None:
        """Leave."""
        self._leave()

    def _leave(self) -> None:
        if self.observer is not None:
            self.observer.close()

    def _chosen(self, trainer: "Trainer") -> list[int]:
        if self._which is None and len(trainer.optimizers) > 1:
            raise ValueError(
                f"the module has {len(trainer.optimizers)} optimizers: choose one by "
                "LightningObserver(optimizer=0, loss=...), one callback for each that has a loss of its own"
            )
        which = 0 if self._which is None else self._which
        return [which] if isinstance(which, int) else list(which)


def _takes(function: Function, count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    return True


def _reads_third(function: Any) -> bool:
    """Whether a function reads its third argument; True where that cannot be told."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None or code.co_argcount < 3:
        return True
    name = code.co_varnames[2]
    return name in code.co_cellvars or any(
        each.opname.startswith("LOAD") and name in (each.argval if isinstance(each.argval, tuple) else (each.argval,))
        for each in dis.get_instructions(code)
    )


@contextmanager
def _silent(module: "LightningModule") -> Iterator[None]:
    """Within, the module logs nothing."""
    own = vars(module)
    before = {name: own.get(name) for name in ("log", "log_dict")}
    own.update(dict.fromkeys(before, _nothing))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del own[name]
            else:
                own[name] = value


def _nothing(*args: object, **kwargs: object) -> None:
    """Nothing."""


def _require_a_loss(module: "LightningModule") -> None:
    if not module.automatic_optimization:
        raise ValueError(
            "the module's training_step steps the optimizer itself (manual optimization), so it is not a loss: pass "
            "LightningObserver(loss=...), a function of (module, batch) that only computes the loss"
        )
    metric = required("torchmetrics", "lightning").Metric
    found = [name for name, part in nn.Module.named_modules(module) if isinstance(part, metric)]
    if found:
        raise ValueError(
            f"the module has torchmetrics ({', '.join(found[:3])}), which training_step would update once more at "
            "every measured step: give LightningObserver(loss=...), the loss alone as a function of (module, batch)"
        )
