"""The quadratic of a training step that has been taken: of the loss that a module and a criterion make, along θ⁺ − θ.

By the captured loss where it can be, and by double backward where it cannot. Nothing of the module or of any global
random generator changes.
"""

import copy
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alpha_func import tree
from alpha_func.capture import CapturedLoss, capture
from alpha_func.errors import CaptureError
from alpha_func.losses.draws import draws_replayed
from alpha_func.losses.module_loss import ModuleLoss, functional_loss
from alpha_func.quadratic import Quadratic
from alpha_func.transforms.strategies import StrategyLike
from alpha_func.transforms.verbs import quadratic_along

logger = logging.getLogger("alpha_func")
KEPT_LOSSES = 8  # one for each set of parameters that was trained
TRIED_CAPTURES = 12  # before a loss that is captured anew at most measurements is given up as a program
_EXACT = (torch.float32, torch.float64)


class Batch(NamedTuple):
    """What a loss was called with, and the state of the random generators where its forward began, where known."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rng: Sequence[Tensor] | None = None


class Meter:
    """``meter(before, after, batches)``: the quadratic along the step from ``before`` to ``after``.

    Args:
        module: read at every call, never changed. Where it computes in less than float32, a copy in float32 is kept.
        criterion: as for ``functional_loss``.
        strategy: as for ``quadratic_along``; None captures the loss, and falls back to double backward where it cannot.
        backend: of ``capture``.
        total: whether several batches are summed; they are averaged otherwise.
    """

    def __init__(
        self,
        module: nn.Module,
        criterion: Callable[[Any, Any], Tensor] | None,
        *,
        strategy: StrategyLike | None = None,
        backend: str = "eager",
        total: bool = False,
    ):
        self._source, self._strategy, self._backend, self.total = module, strategy, backend, total
        self._copy: nn.Module | None = None
        if any(value.is_floating_point() and value.dtype not in _EXACT for value in _tensors(module)):
            self._copy = copy.deepcopy(module).float()
            criterion = copy.deepcopy(criterion).float() if isinstance(criterion, nn.Module) else criterion
        self._loss: ModuleLoss = functional_loss(self._copy or module, criterion)[0]
        self._transforms: dict[tuple[str, ...], tuple[CapturedLoss | None, Callable[..., Quadratic]]] = {}
        self._measured = 0
        self._of_names(self._loss.names)  # refuses a strategy or a backend that there is not

    def __call__(
        self, before: Mapping[str, Tensor], after: Mapping[str, Tensor], batches: Sequence[Batch]
    ) -> tuple[dict[str, Tensor], Quadratic]:
        """(d, the quadratic along d at ``before``), d = after − before in float32 or better, the batches together."""
        theta = {name: _exact(value) for name, value in before.items()}
        d = {name: _exact(value.detach()) - theta[name] for name, value in after.items()}
        with ExitStack() as stack:
            stack.enter_context(_generators_kept())
            stack.enter_context(_without_autocast())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())  # a closure or a caller may have left it off
            self._follow()
            parts = [self._along(theta, d, batch) for batch in batches]
        together = torch.stack([torch.stack(q).detach().cpu().double() for q in parts]).sum(0)
        self._measured += 1
        return d, Quadratic(*(together if self.total else together / len(parts)))

    def _along(self, theta: dict[str, Tensor], d: dict[str, Tensor], batch: Batch) -> Quadratic:
        exact = _exact if self._copy is not None else _constant
        args, kwargs = tree.map(exact, (batch.args, batch.kwargs))
        with draws_replayed(batch.rng):
            captured, along = self._of_names(tuple(theta))
            if captured is None:
                return along(theta, d, *args, **kwargs)
            try:
                quadratic = along(theta, d, *args, **kwargs)
            except CaptureError as error:
                self._give_up(str(error))
            else:
                if captured.captured >= TRIED_CAPTURES and 2 * captured.captured > self._measured:
                    self._give_up(f"{captured.captured} programs were captured in {self._measured + 1} measurements")
                return quadratic
            return self._of_names(tuple(theta))[1](theta, d, *args, **kwargs)

    def _of_names(self, names: tuple[str, ...]) -> tuple[CapturedLoss | None, Callable[..., Quadratic]]:
        if names not in self._transforms:
            if len(self._transforms) >= KEPT_LOSSES:
                self._transforms.clear()
            loss = self._loss.over(names)
            captured = capture(loss, backend=self._backend) if self._strategy is None else None
            self._transforms[names] = captured, quadratic_along(captured or loss, strategy=self._strategy)
        return self._transforms[names]

    def _give_up(self, why: str) -> None:
        self._strategy = "reverse_over_reverse"
        self._transforms.clear()
        logger.warning("the loss is measured without a captured program from here on, by double backward: %s", why)

    def _follow(self) -> None:
        """Bring the copy's mode, buffers and frozen parameters to where the module's are."""
        if self._copy is None:
            return
        for part, source in zip(self._copy.modules(), self._source.modules(), strict=True):
            part.training = source.training
        with torch.no_grad():
            for value, original in zip(_tensors(self._copy), _tensors(self._source), strict=True):
                value.copy_(original)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _exact(value: Any) -> Any:
    """A tensor in float32 or better, apart from the graph; integers and what is no tensor as they are."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    return value.float() if value.is_floating_point() and value.dtype not in _EXACT else value


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Python's and NumPy's generators put back: a forward may draw from them. torch's are kept by the loss."""
    numpy = sys.modules.get("numpy")
    python, arrays = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        random.setstate(python)
        if numpy:
            numpy.random.set_state(arrays)


@contextmanager
def _without_autocast() -> Iterator[None]:
    """The program computes in the dtype of the parameters, whatever the loop computes in."""
    accelerator = torch.accelerator.current_accelerator()
    with ExitStack() as stack:
        for kind in ["cpu"] if accelerator is None else ["cpu", accelerator.type]:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
