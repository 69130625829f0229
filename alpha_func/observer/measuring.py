"""The loss of a training step that has been taken: its quadratic along θ⁺ − θ, its gradient, and where the step ended.

By the captured loss where it can be, and by double backward where it cannot. Nothing of the module or of any global
random generator changes.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alpha_func import tree
from alpha_func.capture import CapturedLoss, capture
from alpha_func.capture.time_limit import within
from alpha_func.errors import CaptureError, ImpureLossError, StrategyError
from alpha_func.losses.forms import Criterion
from alpha_func.losses.kernels import twice_differentiable
from alpha_func.losses.module_loss import LossOfLoss, ModuleLoss, Watched, functional_loss
from alpha_func.observer.batches import Batch, each_tensor
from alpha_func.observer.forwards import Beginning, as_it_began, measuring
from alpha_func.observer.snapshot import Given
from alpha_func.observer.trained import Trained
from alpha_func.quadratic import Quadratic
from alpha_func.taylor import Taylor
from alpha_func.transforms.along import taylor_along
from alpha_func.transforms.by_autograd import double_backward
from alpha_func.transforms.engine import Engine, Uncaptured
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.validation import scalar_loss
from alpha_func.transforms.verbs import quadratic_along

logger = logging.getLogger("alpha_func")
KEPT_LOSSES = 8  # one for each set of parameters that was trained
TRIED_CAPTURES = 8  # before a loss that is captured anew at most measurements is given up as a program
PATIENCE = 5.0  # seconds until a first measurement says what it is doing
BY_DOUBLE_BACKWARD = "reverse_over_reverse"
_EXACT = (torch.float32, torch.float64)


class Part(NamedTuple):
    """Of one batch: h(0), h′(0), h″(0), h(1) and h‴(0), NaN where that was not asked for or has no program."""

    value: float
    slope: float
    curvature: float
    after: float
    third: float


class Meter:
    """Measures the loss of a batch, in float32 or better.

    Attributes:
        explains: whether the loss can be called without a program, to say what it raises by itself.

    Args:
        module: read at every call, never changed.
        criterion, loss_of: as for ``functional_loss``.
        strategy: as for ``quadratic_along``; None captures the loss, and falls back to double backward where it cannot.
        backend: of ``capture``.
        capture_within: the seconds that a capture may take; past them the loss is measured by double backward.
        third: whether a captured loss gives its third derivative too.
    """

    explains = True

    def __init__(
        self,
        module: nn.Module,
        criterion: Criterion | None,
        loss_of: Callable[..., Tensor] | None,
        *,
        strategy: StrategyLike | None = None,
        backend: str = "eager",
        capture_within: float | None = None,
        third: bool = False,
    ):
        self.third = third
        self._modules = [module, *([criterion] if isinstance(criterion, nn.Module) else [])]
        self._strategy, self._backend, self._capture_within = strategy, backend, capture_within
        self._loss: ModuleLoss = functional_loss(module, criterion, loss_of=loss_of)[0]
        self._transforms: dict[tuple[str, ...], tuple[CapturedLoss | None, Callable[..., Quadratic | Taylor]]] = {}
        self._measured = 0
        self._beginning: Beginning | None = None
        self._of_names(self._loss.names)  # refuses a strategy or a backend that there is not

    @property
    def by_program(self) -> bool:
        """Whether the loss is measured by a captured program."""
        return self._strategy is None

    def part(
        self, theta: dict[str, Tensor], d: dict[str, Tensor], batch: Batch, *, end: dict[str, Tensor] | None = None
    ) -> Part:
        """The quadratic along d at θ, and the loss at ``end`` = θ + d if that is given."""
        with _patient(self._measured == 0), within(self._capture_within if self.by_program else None):
            quadratic = self._quadratic(theta, d, batch)
        self._measured += 1
        numbers = [*quadratic[:3]]
        numbers += quadratic.higher if isinstance(quadratic, Taylor) else [torch.full_like(numbers[0], math.nan)]
        if end is not None:
            captured = self._of_names(tuple(theta))[0]
            loss = captured or self._loss.over(theta)
            # A loss may take a gradient of its own; a program has it written out.
            with self._at(theta, batch) as (args, kwargs), torch.set_grad_enabled(captured is None):
                numbers.append(loss(end, *args, **kwargs))
        found = torch.stack([number.detach().double() for number in numbers]).tolist()  # the device is waited for once
        value, slope, curvature, third, *after = found
        return Part(value, slope, curvature, after[0] if after else math.nan, third)

    @property
    def computes_in(self) -> set[torch.dtype]:
        """What the loop computes in, where neither the parameters nor autocast say so."""
        return set()

    def all_are(self, ready: Callable[[], int]) -> bool:
        """Whether whoever measures a step together is ready to; what this process lacks is raised, the others told.

        Args:
            ready: the number of batches that this process has for the step; 0 where there is none to be measured.
        """
        return ready() > 0

    def agreed(self, against: Given) -> Given:
        """What whoever measures a step together has found of its gradient, the same for all."""
        return against

    def gradient(self, theta: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The gradient at θ of the loss itself, by no program."""
        params = {name: value.detach().requires_grad_() for name, value in theta.items()}
        with self._at(params, batch) as (args, kwargs):
            with Watched():  # hooks on gradients do not belong to it
                value = scalar_loss(self._loss.over(theta), args, kwargs)(params)
            grads = torch.autograd.grad(value, list(params.values()), materialize_grads=True)
        return dict(zip(theta, grads, strict=True))

    def value(self, theta: dict[str, Tensor], batch: Batch) -> Tensor:
        """The loss itself at θ, by no program."""
        with self._at(theta, batch) as (args, kwargs):
            return scalar_loss(self._loss.over(theta), args, kwargs)(theta)

    def told(self, batches: Sequence[Batch]) -> list[float]:
        """What the loop says that the losses of the batches were; NaN where it does not."""
        return [math.nan if batch.loss is None else float(batch.loss) for batch in batches]

    def judged(
        self,
        theta: dict[str, Tensor],
        batches: Sequence[Batch],
        parts: Sequence[Part],
        grads: Mapping[str, Tensor],
        trained_slope: float,
        dtype: torch.dtype,
    ) -> Trained | None:
        """How the loop's gradient is made of the measured one, where that is not to be had; here it is: None."""
        return None

    def give_up_programs(self, why: str) -> None:
        """Measure by double backward from now on."""
        self._strategy = BY_DOUBLE_BACKWARD
        self._transforms.clear()
        logger.warning("from here on, the loss is measured by double backward, without a captured program: %s", why)

    @contextmanager
    def _at(self, theta: Mapping[str, Tensor], batch: Batch) -> Iterator[tuple[Any, Any]]:
        """The batch's arguments, where everything else that its loss reads is what its forward began with."""
        named = dict(self._modules[0].named_parameters())
        weights = {id(named[name]): value if value.requires_grad else None for name, value in theta.items()}
        with ExitStack() as stack:
            stack.enter_context(measuring())
            stack.enter_context(_without_autocast())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())  # a closure or a caller may have left it off
            stack.enter_context(as_it_began(batch.beginning, self._modules, exact, weights))
            self._beginning = batch.beginning
            # A program writes to no argument; what is tried before there is one may.
            given = exact if self.by_program and self._measured else lambda value: exact(value).clone()
            yield each_tensor(given, batch.args), each_tensor(given, batch.kwargs)

    def _quadratic(self, theta: dict[str, Tensor], d: dict[str, Tensor], batch: Batch) -> Quadratic | Taylor:
        captured, along = self._of_names(tuple(theta))
        try:
            with self._at(theta, batch) as (args, kwargs):
                quadratic = along(theta, d, *args, **kwargs)
        except CaptureError as error:
            if captured is None:
                raise
            self.give_up_programs(str(error))
        except (
            Exception
        ) as error:  # inside torch.func some losses do not run that do without: checkpoints, autograd.grad
            if isinstance(error, ImpureLossError) or (isinstance(error, StrategyError) and error.__cause__ is None):
                raise  # it is known to be wrong
            if captured is not None or self._strategy != BY_DOUBLE_BACKWARD:
                raise
            return self._by_autograd(theta, d, batch)
        else:
            if captured is not None and captured.captured >= TRIED_CAPTURES and 2 * captured.captured > self._measured:
                self.give_up_programs(
                    f"{captured.captured} programs were captured in {self._measured + 1} measurements"
                )
            return quadratic
        return self._quadratic(theta, d, batch)

    def _by_autograd(self, theta: dict[str, Tensor], d: dict[str, Tensor], batch: Batch) -> Quadratic:
        """Double backward over a plain call, without torch.func."""
        params = {name: value.detach().requires_grad_() for name, value in theta.items()}
        with self._at(params, batch) as (args, kwargs), twice_differentiable():
            loss = scalar_loss(self._loss.over(theta), args, kwargs)
            grads, _, value, hd = double_backward(loss, params, lambda _: d)
        return Quadratic(value, tree.vdot(d, grads), tree.vdot(d, hd))

    def _of_names(self, names: tuple[str, ...]) -> tuple[CapturedLoss | None, Callable[..., Quadratic | Taylor]]:
        if names not in self._transforms:
            if len(self._transforms) >= KEPT_LOSSES:
                self._transforms.clear()
            loss = self._loss.over(names)
            captured = capture(loss, backend=self._backend) if self._strategy is None else None
            begun = captured or _BegunAnew(loss, lambda: as_it_began(self._beginning, (), exact))
            along: Callable[..., Quadratic | Taylor] = quadratic_along(begun, strategy=self._strategy)
            if self.third and captured is not None:
                along = taylor_along(captured, order=3)
            self._transforms[names] = captured, along
        return self._transforms[names]


class _BegunAnew(LossOfLoss):
    """A loss that begins every call alike: what runs it may call it more than once."""

    def __init__(self, loss: ModuleLoss, begun: Callable[[], AbstractContextManager[None]]):
        self.loss, self._begun = loss, begun

    def __call__(self, params: Any, *args: object, **kwargs: object) -> Tensor:
        """The loss."""
        with self._begun():
            return self.loss(params, *each_tensor(torch.clone, args), **each_tensor(torch.clone, kwargs))

    def engine(self, strategy: StrategyLike | None) -> Engine:
        """No program."""
        return Uncaptured(self, strategy)


def exact(value: Tensor) -> Tensor:
    """A tensor in float32 or better, integers as they are, apart from the graph; a parameter stays one."""
    if not value.is_floating_point() or value.dtype in _EXACT:
        return value if isinstance(value, nn.Parameter) else value.detach().requires_grad_(value.requires_grad)
    made = value.detach().float()
    return nn.Parameter(made, value.requires_grad) if isinstance(value, nn.Parameter) else made


@contextmanager
def _patient(first: bool) -> Iterator[None]:
    """Say what takes so long, once."""
    timer = threading.Timer(
        PATIENCE,
        logger.warning,
        [
            "the first measured step is capturing the loss, which has taken %g seconds so far; later steps reuse the "
            "program. strategy='reverse_over_reverse' measures without one, and capture_within= limits the time",
            PATIENCE,
        ],
    )
    timer.daemon = True
    if first:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _without_autocast() -> Iterator[None]:
    """The program computes in the dtype of the parameters, whatever the loop computes in."""
    accelerator = torch.accelerator.current_accelerator()
    with ExitStack() as stack:
        for kind in ["cpu"] if accelerator is None else ["cpu", accelerator.type]:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
