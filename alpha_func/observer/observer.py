"""α* of the steps of a training loop that exists already.

    θ, θ⁺   the parameters before and after a step of the optimizer
    d       the step that was taken, θ⁺ − θ: α = 1 is the step as it is

The observer sits on the optimizer's step hooks: it keeps θ before a step that is to be measured, and measures after it.
So d is the very step that the loop took, whatever made it: any optimizer, clipping, a GradScaler, a scheduler.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alpha_func import tree
from alpha_func.losses.draws import rng_state
from alpha_func.observer import setup
from alpha_func.observer.measuring import Batch, Meter
from alpha_func.observer.record import StepRecord, divided
from alpha_func.observer.snapshot import Snapshot, given, snapshot, trained
from alpha_func.transforms.strategies import StrategyLike

logger = logging.getLogger("alpha_func")
Log = Callable[[StepRecord], object]


class Observer:
    """Measures α* of the steps that an optimizer takes in a loop of your own, and changes nothing in it.

    Two lines: one before the loop, and one in it, anywhere before ``optimizer.step()``:

        observer = Observer(model, criterion, optimizer, every=10, log=print)
        for inputs, targets in loader:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            observer.batch(inputs, targets)
            optimizer.step()

    A step is measured with the quadratic of the batch's loss at θ, the parameters before it, along d = θ⁺ − θ, in
    float32 or better, autocast or not. The loss has the dropout masks that the batch was trained with, unless another
    call of the module came between or autocast draws others. Parameters, buffers, gradients, optimizer state and random
    generators stay bit for bit what they are without it.

    The first step is where a set-up shows its mistakes: an error in measuring it is raised by ``optimizer.step()``.
    After that nothing is: an error is logged (``logging``, "alpha_func"), the step has no record, and training goes on.
    So it is, at any step, for an error of a logger and for memory that runs out. A loss that is not finite is recorded
    as it is.

    Args:
        module: the model as it is called in the loop; for a wrapper such as DistributedDataParallel its ``.module``.
        criterion: ``criterion(outputs, targets)``, the loss; None where the module's output is or holds the loss.
        optimizer: a torch.optim optimizer of the module's parameters, all or some of them.
        every: measure step 0 and every so many steps; or a function of the step, true where it is to be measured.
        log: what is called with each ``StepRecord``, or several of such; see ``alpha_func.observer.loggers``.
        accumulate: how many batches make a step, where gradients are accumulated: the last so many since the last step
            are averaged.
        measure_on: measure on this batch instead: a tuple of arguments or a dict of keyword arguments of the loss, or
            a function of the step that returns one. Random draws are then seeded, alike at every step.
        strategy: as for ``quadratic_along``. Left out, the loss is captured, and where it cannot be, double backward
            measures it and the log says why.
        backend: of ``capture``.
        start: the number of the first step, where a loop goes on.

    Raises:
        TypeError, ValueError: an argument is not as above, or they do not fit each other.

    A measured step costs about one and a half to two gradients, and memory for θ and d; any other step nothing. A batch
    of new shapes is captured at its first measurement, which takes a second or so.

    >>> module = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> inputs, targets = torch.ones(4, 2), torch.zeros(4, 1)
    >>> with Observer(module, torch.nn.MSELoss(), optimizer) as observer:
    ...     torch.nn.MSELoss()(module(inputs), targets).backward()
    ...     observer.batch(inputs, targets)
    ...     optimizer.step()
    >>> round(observer.last.alpha_steps, 3)  # dᵀg = −0.1 ‖g‖², dᵀHd = 0.01·2·3 ‖g‖²
    1.667
    """

    def __init__(
        self,
        module: nn.Module,
        criterion: Callable[[Any, Any], Tensor] | None,
        optimizer: Optimizer,
        *,
        every: int | Callable[[int], bool] = 1,
        log: Log | Iterable[Log] = (),
        accumulate: int = 1,
        measure_on: Any = None,
        strategy: StrategyLike | None = None,
        backend: str = "eager",
        start: int = 0,
    ):
        module, optimizer = setup.bare_module(module), setup.bare_optimizer(optimizer)
        setup.check_criterion(criterion)
        setup.check_parameters(module, optimizer)
        self._is_due, self._logs = setup.schedule(every), setup.callables(log)
        if not isinstance(accumulate, int) or accumulate < 1:
            raise ValueError(f"accumulate must be a positive number of batches, got {accumulate!r}")
        if measure_on is not None and not callable(measure_on):
            setup.as_batch(measure_on)
        self._module, self._criterion, self._optimizer = module, criterion, optimizer
        self._measure_on = measure_on
        self.meter = Meter(module, criterion, strategy=strategy, backend=backend)
        self.step, self.last = start, None
        self._start = start
        self._batches: deque[Batch] = deque(maxlen=accumulate)
        self._drawn: list[Tensor] | None = None
        self._said: set[Any] = set()
        self._due: tuple[int, bool] = (-1, False)
        self._before: Snapshot | None = None
        self._stepping = self.measuring = False
        self._handles: list[Any] = [
            optimizer.register_step_pre_hook(self._on_step),
            optimizer.register_step_post_hook(self._on_stepped),
            module.register_forward_pre_hook(self._on_forward),
        ]

    last: StepRecord | None
    """The last record."""

    step: int
    """The number of the next step."""

    measuring: bool
    """Whether a step is being measured now; the module is then called by the observer."""

    def batch(self, *args: Any, **kwargs: Any) -> None:
        """The batch of the step about to be taken: what the loss is called with; at once free where none is due.

        With a criterion ``batch(inputs, targets)``, without one the arguments of the module. Where gradients are
        accumulated, call it for every batch of the step.

        Raises:
            TypeError: other than two arguments come with a criterion.
        """
        if self._criterion is not None and (len(args) != 2 or kwargs):
            raise TypeError(
                f"batch takes (inputs, targets), as criterion(module(inputs), targets), got {len(args)} arguments"
                f"{f' and keywords {sorted(kwargs)}' if kwargs else ''}; pack several inputs in a module of your own"
            )
        if self._measure_on is None and self._to_be_measured():
            self._batches.append(Batch(args, kwargs, self._drawn))
            self._drawn = None

    def forward_begins(self) -> None:
        """The loss of the next ``batch`` is about to draw its dropout masks.

        A call of the module says so by itself; only a loop that computes its loss without one need do it.
        """
        self._on_forward(self._module, ())

    def close(self) -> None:
        """Leave the loop: no step is measured any more, and loggers with a ``close`` are closed."""
        for handle in self._handles:
            handle.remove()
        self._handles, logs, self._logs = [], self._logs, []
        for log in logs:
            close = getattr(log, "close", None)
            if callable(close):
                self._guarded(log, close)

    def __enter__(self) -> Self:
        """Itself; it observes already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As ``close``."""
        self.close()

    def _to_be_measured(self) -> bool:
        """Whether the next step is; asked once a step."""
        if self._due[0] != self.step:
            try:
                self._due = self.step, bool(self._is_due(self.step))
            except Exception as error:
                self._due = self.step, False
                self._failed(error)
        return self._due[1]

    def _on_forward(self, module: nn.Module, args: Any) -> None:
        """Keep where the random generators stand, for the dropout masks of this call."""
        if self.measuring or not module.training or self._measure_on is not None or not self._to_be_measured():
            return
        if self._batches and self._batches[-1].rng is None:  # ``batch`` came before the forward
            self._batches[-1] = self._batches[-1]._replace(rng=rng_state())
        else:
            self._drawn = rng_state()

    def _on_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._stepping, self._before = True, None
        if not self._to_be_measured():
            return
        begun = time.perf_counter()
        try:
            setup.check_parameters(self._module, self._optimizer)  # a group may have been added
            self._params = trained(self._module, self._optimizer)
            self._before = snapshot(self._module, self._optimizer)
        except Exception as error:
            self._failed(error)
        self._seconds = time.perf_counter() - begun

    def _on_stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not self._stepping:  # of a class whose step calls its parent's
            return
        step, before, batches = self.step, self._before, list(self._batches)
        self._stepping, self._before, self._drawn = False, None, None
        self._batches.clear()
        self.measuring = True
        try:
            record = None if before is None else self._measured(step, before, batches)
        except Exception as error:
            self._failed(error)
        else:
            if record is not None:
                self.last = record
                for log in self._logs:
                    self._guarded(log, log, record)
        finally:
            self.measuring = False
            self.step += 1

    def _measured(self, step: int, before: Snapshot, batches: list[Batch]) -> StepRecord:
        begun = time.perf_counter()
        if self._measure_on is not None:
            batches = [setup.as_batch(self._measure_on(step) if callable(self._measure_on) else self._measure_on)]
        if not batches:
            raise RuntimeError(
                "the step has no batch to be measured on: call observer.batch(inputs, targets) before "
                "optimizer.step(), or say Observer(..., measure_on=...)"
            )
        after = {name: self._params[name] for name in before.params}
        d, quadratic = self.meter(before.params, after, batches)
        seen = given(self._optimizer, before, after, d)
        value, slope, curvature = (number.item() for number in quadratic)
        alpha, norm = divided(-slope, curvature), tree.norm(d).item()
        return StepRecord(
            step=step,
            loss=value,
            slope=slope,
            curvature=curvature,
            alpha_steps=alpha,
            alpha_lr=alpha * seen.lr,
            lr=before.lr,
            loss_after=math.nan,
            gain_ratio=math.nan,
            step_norm=norm,
            directional_sharpness=divided(curvature, norm**2),
            cosine=seen.cosine,
            weight_decay_share=seen.weight_decay_share,
            trained_loss=math.nan,
            trained_slope=seen.slope,
            gradient_factor=math.nan,
            agrees=None,
            more={"seconds": self._seconds + time.perf_counter() - begun},
        )

    def _failed(self, error: Exception) -> None:
        """Raise at the first step, while nothing is lost; say once afterwards."""
        if self.step == self._start and not isinstance(error, torch.OutOfMemoryError):
            raise error
        if type(error) not in self._said:
            self._said.add(type(error))
            logger.warning(
                "step %d was not measured, and training goes on: %s: %s", self.step, type(error).__name__, error
            )

    def _guarded(self, log: Any, call: Callable[..., object], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:
            if id(log) not in self._said:
                self._said.add(id(log))
                name = getattr(log, "__qualname__", type(log).__qualname__)
                logger.warning("logger %s failed, and training goes on: %s: %s", name, type(error).__name__, error)
