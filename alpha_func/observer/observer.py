"""α* of the steps of a training loop that exists already.

    θ, θ⁺   the parameters before and after a step of the optimizer
    d       the step that was taken, θ⁺ − θ: α = 1 is the step itself

The observer sits on the optimizer's step hooks: it keeps θ before a step that is to be measured, and measures after it.
So d is the very step that the loop took, whatever made it: any optimizer, clipping, a GradScaler, a scheduler.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NoReturn, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from alpha_func.calls import Args, Kwargs
from alpha_func.observer import setup
from alpha_func.observer.batches import Batch, handed_over
from alpha_func.observer.due import Due
from alpha_func.observer.failures import Failures
from alpha_func.observer.forwards import Watch
from alpha_func.observer.meters import meter_for
from alpha_func.observer.pending import Pending
from alpha_func.observer.record import StepRecord
from alpha_func.observer.recording import StepRecorder
from alpha_func.observer.snapshot import gradients, trained
from alpha_func.observer.steps import Steps, uncompiled
from alpha_func.observer.underway import Underway
from alpha_func.transforms.strategies import StrategyLike

logger = logging.getLogger("alpha_func")
Log = Callable[[StepRecord], object]


class Observer:
    """Measures α* of the steps that an optimizer takes in your own loop, and changes nothing in it.

    Two lines: one before the loop, and one in it, anywhere before ``optimizer.step()``:

        observer = Observer(model, criterion, optimizer, every=10, log=print)
        for inputs, targets in loader:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            observer.batch(inputs, targets)
            optimizer.step()

    A step is measured with the quadratic of its batches' loss at θ, the parameters before it, along d = θ⁺ − θ, in
    float32 or better, autocast or not. The loss is the one that the forward of the step began with: its dropout masks,
    buffers, attributes and mode. Parameters, buffers, gradients, optimizer state and random generators stay bit for bit
    what they are without it, and the model is copied, saved, scripted and compiled as without it.

    A record says whether the measured loss is the trained one: it compares the slope with dᵀg of the gradient that the
    optimizer was given. Where they differ beyond rounding, ``agrees`` is False, and the log (``logging``, "alpha_func")
    explains once what differs. Several batches of one step are weighted as the loop weights them.
    docs/my_loop.md says what can differ, and what to do.

    At the first step, ``optimizer.step()`` raises errors that you can fix. Later, nothing is raised: an error is
    logged, the step has no record, and training continues. A step that a GradScaler skips has no record.

    Args:
        module: the model as it is called in the loop; of a compiled or DistributedDataParallel one the inner is taken.
        criterion: ``criterion(outputs, targets)``, the loss; None where the module's output is or holds the loss, or
            ``loss_of`` says what it is.
        optimizer: a torch.optim optimizer of the module's parameters, all or some of them; or several that step one
            after the other, whose steps are then measured as one.
        loss_of: ``loss_of(module, *batch)``, for any other loss: ``lambda model, x, y: model(x, y)[1]``.
        every: the number of steps from one measurement to the next, from step 0 on; or a function of the step that says
            whether to measure it.
        log: a function that is called with each ``StepRecord``, or several; see ``alpha_func.observer.loggers``.
        measure_on: measure on this batch instead: a tuple of arguments or a dict of keyword arguments of the loss, or
            a function of the step that returns one. Random draws are then seeded, alike at every step.
        loss_after: evaluate the loss where the step ended too, for the gain ratio; one forward pass.
        trust_radius: measure the third derivative too, two products a linear layer more: a record's
            ``more["trust_radius"]`` says how many steps far the quadratic is within a tenth of itself; NaN where the
            loss has no program.
        over_ranks: True: records are of the global batch, the mean over the processes of torch.distributed, each with
            the same number of batches a step. False: of this process's batch. None: True if the module is a
            DistributedDataParallel or has sharded parameters. ``more["ranks"]`` of a record is the number of processes.
        strategy: as for ``quadratic_along``. Left out, the loss is captured, and where it cannot be, double backward
            measures it and the log says why.
        backend: of ``capture``.
        capture_within: the most seconds that a capture may take, after which double backward measures; None: no limit.
        start: the number of the first step, if the loop continues another.

    Raises:
        TypeError, ValueError: an argument is not as above, or they do not fit each other.
        ObserverError: at the first measured step, ``batch`` was not called, or the loss cannot be computed from its
            arguments.

    A measured step costs about one and a half to two gradients, and memory for θ, d and the batch; other steps cost
    nothing. A gradient that is clipped costs one more, unless ``batch`` is told the loss. A batch of new shapes is
    captured at its first measurement, which takes a second or so.

    >>> import torch
    >>> module = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> inputs, targets = torch.ones(4, 2), torch.zeros(4, 1)
    >>> with Observer(module, torch.nn.MSELoss(), optimizer) as observer:
    ...     torch.nn.MSELoss()(module(inputs), targets).backward()
    ...     observer.batch(inputs, targets)
    ...     optimizer.step()
    >>> round(observer.last.alpha_steps, 3), observer.last.agrees  # dᵀg = −0.1 ‖g‖², dᵀHd = 0.01·2·3 ‖g‖²
    (1.667, True)
    """

    def __init__(
        self,
        module: nn.Module,
        criterion: Callable[[object, object], Tensor] | None,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        loss_of: Callable[..., Tensor] | None = None,
        every: int | Callable[[int], bool] = 1,
        log: Log | Iterable[Log] = (),
        measure_on: object = None,
        loss_after: bool = True,
        trust_radius: bool = False,
        over_ranks: bool | None = None,
        strategy: StrategyLike | None = None,
        backend: str = "eager",
        capture_within: float | None = None,
        start: int = 0,
    ):
        setup.check_options(start, capture_within, over_ranks, loss_after=loss_after, trust_radius=trust_radius)
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        given, module, self._optimizers = module, setup.bare_module(module), setup.bare_optimizers(optimizer)
        kind, self._ranks = meter_for(given, over_ranks=over_ranks, strategy=strategy, trust_radius=trust_radius)
        setup.check_criterion(criterion)
        setup.check_parameters(module, self._optimizers)
        self._logs = setup.callables(log)
        self._given = setup.given_batches(measure_on)
        self._module, self._criterion = module, criterion
        self._meter = kind(
            module,
            criterion,
            loss_of,
            strategy=strategy,
            backend=backend,
            capture_within=capture_within,
            third=trust_radius,
        )
        self._recorder = StepRecorder(self._optimizers, self._meter, after=loss_after)
        self.step, self.last = start, None
        self._failures = Failures(start, together=self._ranks > 1)
        self._due = Due(every, self._failures, otherwise=self._ranks > 1)
        others = [criterion] if isinstance(criterion, nn.Module) else []
        self._watch = Watch(module, others=others, on_call=self._forward_begins)
        self._pending = Pending(self._watch, self._gradients)
        self._watches = measure_on is None and not compiled  # compiled code draws masks of its own
        self._underway = Underway(module, self._optimizers, self._pending)
        self._hand_over = uncompiled(self._handed_over)
        self._steps = Steps(self._optimizers, self)
        self._forget()

    last: StepRecord | None
    """The last record."""

    step: int
    """The number of the next step."""

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers whose steps it measures as one."""
        return list(self._optimizers)

    def batch(self, *args: object, loss: float | Tensor | None = None, **kwargs: object) -> None:
        """Give a batch of the step about to be taken, as the arguments of the loss; free if it is not measured.

        With a criterion ``batch(inputs, targets)``, with ``loss_of`` its arguments after the module, without either the
        arguments of the module. Where gradients are accumulated, call it for every batch of the step. The batch is
        measured as it is now, whatever the loop does with its tensors afterwards.

        Args:
            args, kwargs: of the loss.
            loss: the loop's own loss of this batch, to be compared with the measured one.

        Raises:
            TypeError: other than two arguments come with a criterion.
        """
        if self._criterion is not None:
            setup.check_supervised(args, kwargs)
        self._hand_over(args, kwargs, loss)

    def _handed_over(self, args: Args, kwargs: Kwargs, loss: float | Tensor | None) -> None:
        if self._given is not None or not self._due(self.step) or self._underway.evaluated:
            return
        try:
            self._pending.add(handed_over(args, kwargs, loss))
        except Exception as error:
            self._failures.before_measuring(self.step, error)

    def forward_begins(self) -> None:
        """Say that the loss of the next ``batch`` is about to be computed, from the masks and buffers of this moment.

        A call of the module, or of any part of it, says so by itself; only a loop that computes its loss without one
        needs to call this.
        """
        if self._given is None and self._due(self.step):
            self._watch.begin()

    def close(self) -> None:
        """Leave the loop: no step is measured any more, and loggers with a ``close`` are closed."""
        self._steps.leave()
        self._watch.disarm()
        logs, self._logs = self._logs, []
        for log in logs:
            close = getattr(log, "close", None)
            if callable(close):
                self._failures.guarded(log, close)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """A copy would sit on no optimizer's hooks."""
        raise TypeError(setup.NOT_COPIED)

    def __enter__(self) -> Self:
        """Itself; it observes already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As ``close``."""
        self.close()

    def _forget(self) -> None:
        """Wait for the next step."""
        self._pending.forget()
        self._watch.disarm()
        self._underway.forget()
        if self._due(self.step):
            self._pending.begin()
            if self._watches:
                self._watch.arm()

    def _gradients(self) -> Iterable[Tensor]:
        return gradients(trained(self._module, self._optimizers)).values()

    def _forward_begins(self) -> None:
        if not self._underway.evaluated:
            self._pending.drop_abandoned()

    def step_begins(self) -> None:
        """Keep θ."""
        if not self._due(self.step):
            return
        begun = time.perf_counter()
        try:
            self._underway.begin()
        except Exception as error:
            self._failures.before_measuring(self.step, error)
        self._seconds = time.perf_counter() - begun

    def closure_evaluated(self, loss: object) -> None:
        """Keep the gradient at θ."""
        if self._underway.before is None:
            return
        try:
            self._underway.closure_evaluated(loss)
        except Exception as error:
            self._underway.forget()
            self._failures.before_measuring(self.step, error)

    def optimizer_stepped(self, optimizer: Optimizer) -> None:
        """Keep the gradient that it was given."""
        self._underway.stepped(optimizer)

    def step_ended(self, why_not: str | None) -> None:
        """Measure."""
        batches: list[Batch] = []

        def ready() -> int:
            self._failures.raise_held()
            if self._underway.before is None or why_not is not None:
                return 0
            batches.extend(self._pending.of_step() if self._given is None else [self._given(self.step)])
            return len(batches)

        try:
            if self._due(self.step) and self._meter.all_are(ready):
                self._measure(batches)
            elif self._underway.before is not None:
                logger.info("step %d has no record: %s", self.step, why_not or "another rank did not take it")
        except Exception as error:
            self._failures.happened(self.step, error)
        finally:
            self.step += 1
            self._forget()

    def _measure(self, batches: list[Batch]) -> None:
        begun = time.perf_counter()
        taken = self._underway.taken(self.step, batches, self._watch, own=self._given is None)
        record = self._recorder.record(taken)
        seconds = self._seconds + time.perf_counter() - begun
        self.last = record._replace(more={**record.more, "seconds": seconds, "ranks": self._ranks})
        for log in self._logs:
            self._failures.guarded(log, log, self.last)
