"""Whether a step was measured on the loss that was trained, and what to say where it was not."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.observer.batches import Batch
from alpha_func.observer.measuring import Meter, Part
from alpha_func.observer.record import agreeing, divided
from alpha_func.observer.snapshot import Given
from alpha_func.observer.trained import Trained, by_gradient, by_slope, mean


class Seen(NamedTuple):
    """What the observer saw of a step beside its numbers.

    Attributes:
        calls, batches: how often the loop called the module, and how many batches it handed over.
        weights_moved: whether the parameters changed between the forward and the step.
        changed: attributes and buffers that changed between the forward and the step.
        batch_changed: whether a tensor of the batch did between the forward and ``batch``.
        beginnings: whether the beginning of every batch's forward is known.
        autocast: whether the module ran under autocast.
    """

    calls: int
    batches: int
    weights_moved: bool
    changed: list[str]
    batch_changed: bool
    beginnings: bool
    autocast: bool


def judged(
    meter: Meter,
    theta: dict[str, Tensor],
    d: dict[str, Tensor],
    batches: Sequence[Batch],
    losses: Sequence[float],
    parts: list[Part],
    grads: Mapping[str, Tensor],
    given: Given,
    *,
    dtype: torch.dtype,
    end: dict[str, Tensor] | None,
    own: bool,
    clipped: Trained | None = None,
) -> tuple[Trained, list[Part]]:
    """How the trained loss is made of the measured ones; and the parts, measured anew where a program was at fault.

    ``clipped`` is what was found of an earlier step whose gradient had been shortened: where the loop tells its loss,
    and it is the measured one, the gradient is not computed again.
    """
    count = len(batches)
    ratios = [divided(loss, part.value) for loss, part in zip(losses, parts, strict=True) if not math.isnan(loss)]
    candidates = [ratios] if len(ratios) == count > 1 else []
    candidates += [mean(count)] + ([[1.0] * count] if count > 1 else [])
    if not own or math.isnan(given.slope) or not all(math.isfinite(part.slope) for part in parts):
        return Trained(candidates[0], float("nan"), None), parts

    def found_in(parts: Sequence[Part]) -> Trained | None:
        slopes = [part.slope for part in parts]
        return by_slope(slopes, given.slope, candidates=candidates, scale=given.scale, dtype=dtype)

    found = found_in(parts)
    if found is not None:
        return found, parts
    if count == 1 and ratios and agreeing(ratios[0], 1.0, scale=1.0, dtype=dtype):
        factor = divided(given.slope, parts[0].slope)
        if clipped is not None and 0 < factor < 1:  # the very loss, and a gradient that is shortened as it was before
            return clipped._replace(factor=factor if math.isfinite(clipped.factor) else math.nan), parts
    by_lines = meter.judged(theta, batches, parts, grads, given.slope, dtype)
    if by_lines is not None:
        return by_lines, parts
    measured = [meter.gradient(theta, batch) for batch in batches]
    if meter.by_program and _program_differs(measured, d, parts, given, dtype):
        meter.give_up_programs("the slope of a program differed from that of the loss")
        parts = [meter.part(theta, d, batch, end=end) for batch in batches]
        found = found_in(parts)
        if found is not None:
            return found, parts

    def distance(weights: list[float]) -> float:
        return abs(given.slope - sum(w * part.slope for w, part in zip(weights, parts, strict=True)))

    whole = {name: grads[name] if name in grads else torch.zeros_like(value) for name, value in theta.items()}
    found = by_gradient(whole, measured, dtype=dtype)
    return (found if found.agrees else found._replace(weights=min(candidates, key=distance))), parts


def _program_differs(
    measured: Sequence[Mapping[str, Tensor]],
    d: dict[str, Tensor],
    parts: Sequence[Part],
    given: Given,
    dtype: torch.dtype,
) -> bool:
    slopes = [float(tree.vdot(g, d)) for g in measured]
    return any(
        agreeing(slope, part.slope, scale=given.scale, dtype=dtype) is False
        for slope, part in zip(slopes, parts, strict=True)
    )


def explained(step: int, trained: float, measured: float, losses: tuple[float, float], how: str, seen: Seen) -> str:
    """The warning: the numbers, what was seen to differ, and else the likely causes.

    >>> seen = Seen(1, 1, False, [], False, True, False)
    >>> print(explained(3, -2.0, -1.0, (1.0, 0.5), "", seen)[:88])
    step 3: the loss that was measured is not the loss that was trained: along the step, the
    """
    found = [how] if how else []
    if seen.weights_moved:
        found.append(
            "the parameters changed between the forward and the step: pass Observer every optimizer of the model in "
            "one list; a step made from gradients at other points (SAM) cannot agree"
        )
    if seen.batch_changed:
        found.append(
            "the batch was changed in place between the forward and observer.batch: call batch right after the forward"
        )
    if "training" in seen.changed:
        found.append("the module's mode changed between the forward and the step")
    if not seen.beginnings:
        found.append(
            "the observer did not see the forward begin, so dropout masks and buffers may differ from those of the "
            "step: the loop computes its loss without calling the module, or calls a compiled one; call "
            "observer.forward_begins() before it"
        )
    if seen.calls > seen.batches:
        found.append(
            f"the module was called {seen.calls} times, and observer.batch {seen.batches} times: call it for every "
            "batch of the step"
        )
    if seen.autocast:
        found.append("the loop runs under autocast, where dropout may draw other masks")
    value, given_loss = losses
    if agreeing(given_loss, value, scale=0.0, dtype=torch.bfloat16):
        found.append("the losses agree, so gradients were changed after backward, or a part of the loss is detached")
    others = (
        "a term of the loss that the observer does not know of (a penalty, label smoothing, class weights), a "
        "batch that differs from the one that observer.batch was given, or gradients changed by hand"
    )
    seen_text = f"Observed: {'; '.join(found)}. Other causes" if found else "Likely causes"
    loss_text = (
        f"; the measured loss is {value:.6g}, and the trained one {given_loss:.6g}" if given_loss == given_loss else ""
    )
    return (
        f"step {step}: the loss that was measured is not the loss that was trained: along the step, the measured slope "
        f"is {measured:.6g}, and the slope by the optimizer's gradient is {trained:.6g}{loss_text}. Such "
        f"records have agrees=False. {seen_text}: {others}. See docs/my_loop.md"
    )
