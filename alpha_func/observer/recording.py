"""The record of a step that was taken: its batches measured, weighted as the loop weights them, and judged."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alpha_func import tree
from alpha_func.errors import AlphaFuncError, ObserverError
from alpha_func.observer.batches import Batch
from alpha_func.observer.measuring import Meter, exact
from alpha_func.observer.record import NOTHING_MORE, StepRecord, divided
from alpha_func.observer.snapshot import Snapshot, given
from alpha_func.observer.trained import Trained
from alpha_func.observer.verdict import Seen, explained, judged
from alpha_func.quadratic import gain_ratio
from alpha_func.shards import any_sharded
from alpha_func.taylor import Taylor
from alpha_func.torch_private import subtracted

logger = logging.getLogger("alpha_func")


class Taken(NamedTuple):
    """A step that was taken.

    Attributes:
        step: its number.
        before: θ, and what the step was about to be made of.
        params: the live parameters, after the step.
        grads: the gradient that the optimizers were given.
        batches: what its gradient was made of, or what it is to be measured on.
        own: whether these are the step's own batches.
        calls, weights_moved, autocast: as ``Seen`` has them.
    """

    step: int
    before: Snapshot
    params: Mapping[str, nn.Parameter]
    grads: Mapping[str, Tensor]
    batches: Sequence[Batch]
    own: bool
    calls: int
    weights_moved: bool
    autocast: torch.dtype | None


class StepRecorder:
    """Makes records of steps, and says once where another loss was trained than is measured."""

    def __init__(self, optimizers: Sequence[Optimizer], meter: Meter, *, after: bool):
        self._optimizers, self._meter, self._after = optimizers, meter, after
        self._logged: set[str] = set()
        self._clipped: Trained | None = None

    def record(self, taken: Taken) -> StepRecord:
        """The record of a step; its ``more`` holds the trust radius, where the meter has the third derivative.

        Raises:
            ObserverError: the batches make no loss.
        """
        before, batches = taken.before, taken.batches
        theta = {name: exact(value) for name, value in before.params.items()}
        after = {name: exact(taken.params[name].detach()) for name in theta}
        if any_sharded(theta.values()):
            d = tree.sub(after, theta)
        else:
            d = dict(zip(theta, subtracted(after.values(), theta.values()), strict=True))
        end = after if self._after else None
        seen = _seen(taken)  # before the module is called for it
        try:
            parts = [self._meter.part(theta, d, batch, end=end) for batch in batches]
        except Exception as error:
            self._explain(error, theta, batches)
            raise
        losses = self._meter.told(batches)
        against = self._meter.agreed(given(self._optimizers, before, taken.grads, d))
        dtypes = {value.dtype for value in before.params.values()} | self._meter.computes_in
        dtypes |= {taken.autocast} if taken.autocast else set()
        verdict, parts = judged(
            self._meter, theta, d, batches, losses, parts, taken.grads, against,
            dtype=max(dtypes, key=_eps), end=end, own=taken.own, clipped=self._clipped,
        )  # fmt: skip
        value, slope, curvature, loss_after, third = (
            _weighted(verdict.weights, column) for column in zip(*parts, strict=True)
        )
        trained_loss = _weighted(verdict.weights, losses)
        if verdict.agrees is False:
            text = explained(taken.step, against.slope, slope, (value, trained_loss), verdict.how, seen)
            self._say("disagrees", logging.WARNING, text)
        elif verdict.how:
            self._clipped = verdict
            self._say("factor", logging.INFO, f"step {taken.step}: {verdict.how}; α* does not depend on it")
        alpha, norm = divided(-slope, curvature), against.step_norm
        eps = max(_eps(each.dtype) for each in theta.values())
        return StepRecord(
            step=taken.step,
            loss=value,
            slope=slope,
            curvature=curvature,
            alpha_steps=alpha,
            alpha_lr=alpha * against.lr,
            lr=before.lr,
            loss_after=loss_after,
            gain_ratio=gain_ratio(value, slope, curvature, loss_after, eps=eps),
            step_norm=norm,
            directional_sharpness=divided(curvature, norm**2),
            cosine=against.cosine,
            weight_decay_share=against.weight_decay_share,
            trained_loss=trained_loss,
            trained_slope=against.slope,
            gradient_factor=verdict.factor,
            agrees=verdict.agrees,
            more={"trust_radius": _trust_radius(value, slope, curvature, third)} if self._meter.third else NOTHING_MORE,
        )

    def _say(self, what: str, level: int, text: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            logger.log(level, text)

    def _explain(self, error: Exception, theta: dict[str, Tensor], batches: Sequence[Batch]) -> None:
        """Raise what the loss of the batches raises by itself, in words that say what to mend."""
        if isinstance(error, AlphaFuncError | torch.OutOfMemoryError) or not self._meter.explains:
            return
        for batch in batches:
            try:
                self._meter.value(theta, batch)
            except Exception as own:
                raise ObserverError(
                    f"the loss cannot be computed from the arguments of observer.batch ({type(own).__name__}: {own}): "
                    "pass (inputs, targets) where there is a criterion; for any other loss, pass Observer "
                    "loss_of=lambda model, *batch: ... and call observer.batch(*batch)"
                ) from own


def _seen(taken: Taken) -> Seen:
    begun = [batch.beginning for batch in taken.batches if batch.beginning is not None]
    return Seen(
        calls=taken.calls,
        batches=len(taken.batches),
        weights_moved=taken.weights_moved,
        changed=sorted({name for each in begun for name in each.changed_parts()}),
        batch_changed=any(batch.changed for batch in taken.batches),
        beginnings=len(begun) == len(taken.batches),
        autocast=taken.autocast is not None,
    )


def _trust_radius(*derivatives: float) -> float:
    value, slope, curvature, third = torch.tensor(derivatives, dtype=torch.float64).unbind()
    return Taylor(value, slope, curvature, (third,)).trust_radius().item()


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def _weighted(weights: Sequence[float], numbers: Sequence[float]) -> float:
    return sum(w * number for w, number in zip(weights, numbers, strict=True) if w)
