"""The programs of a sharded loss proven at their first uses, all ranks together.

    the value      is that of the module's own forward, whose hooks gather, cast and compute without us
    the sweep      is the line in float64, by PyTorch's forward derivatives; else by differences of the value
    as it runs     it is the sweep in float64, to roundings

No route needs a whole model, or a backward pass. The second call is compared at parameters a little away from its own,
along a random direction, as other captured losses are. Every route gathers, so all ranks take the same ones: each finds
for itself whether it is content, and they agree on what follows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, fx

from alpha_func.capture.rewrites.in_double import program_in_double
from alpha_func.capture.running.points import Point
from alpha_func.capture.sharded.agreement import Agreement, Found
from alpha_func.capture.sharded.made import Made, Numbers
from alpha_func.capture.tracing.agreement import aside
from alpha_func.capture.tracing.roundings import apart, coarsest, disturbed, seeded
from alpha_func.errors import CaptureError
from alpha_func.losses.in_double import doubled
from alpha_func.shards import together
from alpha_func.verified.differences import differences

_NAMES = ("value", "slope", "curvature")
_NEAR_IN_VALUE = 16  # roundings by which two orders of one computation differ without a second look
_NEAR = 1024  # roundings by which two orders of one derivative differ without a second look
_EXACT = 1e-7  # the same in float64
_ROUNDED = 1e-6  # the same, of a program that was written for less, whose constants are rounded
_RESOLVED = 1e-6  # what extrapolated differences resolve
_RUNS, _SIZE, _FAR = 3, 16, 8  # as for other captured losses


def require_value(
    made: Made, agree: Agreement, inputs: Sequence[Tensor], own: Callable[[], Tensor], dtypes: Iterable[torch.dtype]
) -> None:
    """Refuse a program whose value is not that of the module's own forward.

    Args:
        made: what was made of it.
        agree: with the other ranks.
        inputs: what is here of the program's inputs, at the module's own parameters.
        own: the module's own forward, of which every rank takes part.
        dtypes: what that computes in, where it is not the parameters' own.

    Raises:
        CaptureError: on every rank; the message holds both values where they differ.
    """
    with aside():
        got, expected = (together(run).detach() for run in (lambda: made.value(*inputs), own))
        eps = max([coarsest([*inputs, expected]), made.rounding, *(torch.finfo(dtype).eps for dtype in dtypes)])
        written, size = made.value_written(), eps / coarsest(list(inputs))

        def disturbed_values() -> Iterator[Numbers]:
            for run in disturbed(written, _RUNS, _SIZE * size):
                with seeded(made.seed):
                    yield [together(partial(run, *inputs))]

        parted = _apart(agree, [got], [expected], _NEAR_IN_VALUE * eps, disturbed_values)
    if parted:
        raise CaptureError(
            f"the captured program and the module's own forward on its shards have different values ({parted}): the "
            "loss reads something that changes from call to call, dropout draws the mask of each rank's own shard, or "
            "the module is written for the shards of one rank (local heads, attention over ranks); write it for a "
            "single process, and let parallelize_module shard it"
        )


def doubt(made: Made, agree: Agreement, point: Point, *, away: bool, narrow: bool) -> str | None:
    """What speaks against the sweep, the same on every rank; None where nothing does.

    Args:
        made: the programs.
        agree: with the other ranks.
        point: what is here of inputs and direction.
        away: whether to compare away from the call's own values.
        narrow: whether a rank has a tensor in less than double precision.
    """
    if away:
        point = point.away(made.count)
    operands = [*point.inputs, *(point.direction or ())]

    def disturbed_sweeps(written: fx.GraphModule, given: list[Tensor]) -> Iterator[Numbers]:
        for run in disturbed(written, _RUNS, _SIZE):
            with seeded(made.seed):
                yield together(partial(run, *given))

    def in_double() -> Iterator[Numbers]:
        return disturbed_sweeps(program_in_double(made.written()), list(map(doubled, operands)))

    with aside():
        exact = together(lambda: made.sweep_in_double(*operands))
        try:
            line = together(lambda: made.line_in_double(*operands))
        except NotImplementedError:  # an operator without forward derivatives, on every rank alike
            parted = _apart_from_differences(made, agree, exact, point)
        else:
            parted = _apart(agree, exact, line, _ROUNDED if narrow else _EXACT, in_double)
        if not parted and narrow:
            got, near = together(lambda: made.sweep(*operands)), _NEAR * max(coarsest(operands), made.rounding)
            parted = _apart(agree, got, exact, near, lambda: disturbed_sweeps(made.written(), operands))
    return parted or None


def _apart(
    agree: Agreement,
    got: Numbers,
    expected: Numbers,
    tolerance: float,
    runs: Callable[[], Iterable[Numbers]],
) -> str:
    """The first number that is farther from the other than roundings go, on any rank."""
    pairs = [(name, x.detach(), y.detach()) for name, x, y in zip(_NAMES, got, expected, strict=False)]
    far = [not apart(x, y) <= tolerance * abs(float(y)) for _, x, y in pairs]  # so for a NaN of one of them alone
    if not _any(agree, any(far)):
        return ""
    spreads = [0.0] * len(pairs)
    for run in runs():
        spreads = [max(s, apart(x, y)) for s, x, (_, y, _) in zip(spreads, run, pairs, strict=False)]
    found = [
        f"{name} {float(x):.9g} and {float(y):.9g}"
        for (name, x, y), off, spread in zip(pairs, far, spreads, strict=True)
        if off and not apart(x, y) <= _FAR * spread
    ]
    if not _any(agree, bool(found)):
        return ""
    return found[0] if found else "on another rank"


def _apart_from_differences(made: Made, agree: Agreement, exact: Numbers, point: Point) -> str:
    """The same against differences of the sum of all ranks' values, of which all know the same."""
    inputs, d = list(map(doubled, point.inputs)), list(map(doubled, point.direction or ()))
    value = made.value_in_double()

    def h(alpha: float) -> float:
        here = [θ + alpha * step for θ, step in zip(inputs, d, strict=False)]
        found = together(lambda: value(*here, *inputs[len(d) :]))
        return agree.sum([float(found)])[0]

    size = agree.sum([float(sum(step.square().sum() for step in d))])[0] ** 0.5 or 1.0
    found = differences(h, 1 / size)
    if not found.smooth:
        return ""
    value_, slope, curvature = agree.sum([float(x) for x in exact])
    pairs = (("value", value_, found.value, abs(found.value)), ("slope", slope, found.slope, found.scale / size))
    for name, x, y, scale in (*pairs, ("curvature", curvature, found.curvature, found.scale)):
        if not abs(x - y) <= _RESOLVED * scale:
            return f"{name} {x:.9g}, and {y:.9g} by differences"
    return ""


def _any(agree: Agreement, here: bool) -> bool:
    (found,), _ = agree("a comparison", lambda: (Found("", [float(here)]), None))
    return bool(found)
