"""The error bars of α*, a ratio of two means over examples.

    sᵢ, cᵢ   slope and curvature of example i of n        s̄, c̄   their (weighted) means        α* = −s̄/c̄
    V_ss, V_sc, V_cc   the estimated covariance of (s̄, c̄)        z   the normal quantile of the level

    delta method    α* ± z·√(V_ss + 2α*V_sc + α*²V_cc) / |c̄|        s̄ + α*c̄ = 0 made linear in its noise
    Fieller (1954)  all α with (s̄ + αc̄)² ≤ z²(V_ss + 2αV_sc + α²V_cc)        bounded only where c̄² > z²V_cc

A curvature that is not significantly different from zero bounds no ratio: then no finite interval has the level
(Gleser and Hwang, 1987), and the delta method's would be an illusion.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from alpha_func.quadratic import Quadratic

METHODS = ("delta", "fieller")
_AT_ONCE = 2**22  # indices drawn at a time


class AlphaInterval(NamedTuple):
    """α* of the population that the examples are drawn from, and how well they determine it; print it.

    Attributes:
        alpha: −s̄/c̄, a multiple of the direction.
        low, high: the interval; −inf and inf where it is unbounded.
        level: the share of samples whose interval holds the population's α*.
        standard_error: of α*, by the delta method.
        curvature, curvature_error: c̄ and its standard error.
        bootstrap: the percentile interval of the resamples, if asked for.
    """

    alpha: float
    low: float
    high: float
    level: float
    standard_error: float
    curvature: float
    curvature_error: float
    bootstrap: tuple[float, float] | None

    @property
    def bounded(self) -> bool:
        """Whether the curvature is significantly positive at the level; if not, the examples do not bound α*."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __str__(self) -> str:
        text = f"α* = {self.alpha:.4g}, at {self.level:.4g} in [{self.low:.4g}, {self.high:.4g}]"
        if self.bootstrap is not None:
            text += f", by bootstrap in [{self.bootstrap[0]:.4g}, {self.bootstrap[1]:.4g}]"
        if not self.bounded:
            text += (
                f": unbounded, the curvature {self.curvature:.4g} ± {self.curvature_error:.2g} is not significantly "
            )
            text += "positive; take more examples"
        return text


def alpha_interval(
    quadratics: Quadratic,
    level: float = 0.95,
    *,
    weight: Tensor | None = None,
    method: str = "delta",
    bootstrap: int | None = None,
    seed: int = 0,
) -> AlphaInterval:
    """α* as a ratio of means, with a confidence interval.

    It holds for examples that are drawn independently, and for a direction that was computed from other examples: with
    the same ones α* is biased, and no interval around it is right (see ``two_batch``).

    Args:
        quadratics: of n examples, fields of shape (n,), as ``per_example_quadratics`` gives them; or of n batches.
        level: of confidence, between 0 and 1; approximate, as n grows.
        weight: shape (n,), of each example in the mean; None: all equal.
        method: "delta", symmetric about α*, or "fieller", which follows the skewness of a noisy curvature.
        bootstrap: the number of resamples for an additional percentile interval (Efron, 1979); a resample whose
            curvature is not positive counts as an infinite α*.
        seed: of the resamples; no global RNG is touched.

    Returns:
        An AlphaInterval, unbounded where the curvature is not significantly positive at the level.

    Raises:
        TypeError, ValueError: an argument is not as above, or a number is not finite.

    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> s, c = torch.randn(400, generator=g) - 3, torch.randn(400, generator=g) + 2
    >>> print(alpha_interval(Quadratic(s, s, c)))
    α* = 1.421, at 0.95 in [1.334, 1.507]
    """
    s, c, w = _checked(quadratics, level, weight, method, bootstrap)
    n, total = len(s), w.sum()
    s_mean, c_mean = (w * s).sum() / total, (w * c).sum() / total
    noise = torch.stack([w * (s - s_mean), w * (c - c_mean)]) / total
    (v_ss, v_sc), (_, v_cc) = (noise @ noise.T * (n / (n - 1))).tolist()
    s_bar, c_bar = float(s_mean), float(c_mean)
    alpha = float(-s_mean / c_mean)
    z = NormalDist().inv_cdf((1 + level) / 2)
    error = math.sqrt(max(v_ss + 2 * alpha * v_sc + alpha**2 * v_cc, 0.0)) / abs(c_bar) if c_bar else math.inf
    c_error = math.sqrt(v_cc)
    if c_bar <= z * c_error:
        low, high = -math.inf, math.inf
    elif method == "delta":
        low, high = alpha - z * error, alpha + z * error
    else:
        low, high = _fieller(s_bar, c_bar, v_ss, v_sc, v_cc, z)
    resampled = None if bootstrap is None else _percentiles(w * s, w * c, level, bootstrap, seed)
    return AlphaInterval(alpha, low, high, level, error, c_bar, c_error, resampled)


def _fieller(s: float, c: float, v_ss: float, v_sc: float, v_cc: float, z: float) -> tuple[float, float]:
    """The roots of (c² − z²V_cc)α² + 2(sc − z²V_sc)α + s² − z²V_ss."""
    square, half_linear, constant = c**2 - z**2 * v_cc, s * c - z**2 * v_sc, s**2 - z**2 * v_ss
    root = math.sqrt(max(half_linear**2 - square * constant, 0.0))
    return (-half_linear - root) / square, (-half_linear + root) / square


def _percentiles(s: Tensor, c: Tensor, level: float, resamples: int, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    n, alphas = len(s), []
    pairs = torch.stack([s, c])
    at_once = max(_AT_ONCE // n, 1)
    for done in range(0, resamples, at_once):
        drawn = torch.randint(n, (min(at_once, resamples - done), n), generator=generator)
        slope, curvature = pairs[:, drawn].sum(-1)
        # On the way from positive to negative, curvature passes zero: α* leaves on the side that it descends to.
        alphas.append(torch.where(curvature > 0, -slope / curvature, -slope.sign() * math.inf))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(alphas).quantile(tails, interpolation="nearest").tolist()
    return low, high


def _checked(
    quadratics: Quadratic, level: float, weight: Tensor | None, method: str, bootstrap: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes, curvatures and weights in float64, on the CPU."""
    if not isinstance(quadratics, Quadratic):
        raise TypeError(f"quadratics must be a Quadratic of shape (n,), got {type(quadratics).__name__}")
    if quadratics.slope.ndim != 1 or len(quadratics.slope) < 2:
        shape = tuple(quadratics.slope.shape)
        raise ValueError(
            f"quadratics has shape {shape}: expected (n,) with n of at least 2, the quadratics of n examples "
            "(per_example_quadratics)"
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a number between 0 and 1, such as 0.95")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown: choose from {', '.join(METHODS)}")
    if bootstrap is not None and (isinstance(bootstrap, bool) or not isinstance(bootstrap, int) or bootstrap < 1):
        raise ValueError(f"bootstrap is {bootstrap!r}: give the number of resamples, such as 1000, or None")
    s, c = (number.detach().to("cpu", torch.float64) for number in quadratics[1:])
    w = torch.ones_like(s) if weight is None else torch.as_tensor(weight).detach().to("cpu", torch.float64)
    if w.shape != s.shape or bool((w < 0).any()) or not w.sum() > 0:
        raise ValueError(f"weight of shape {tuple(w.shape)}: expected {tuple(s.shape)}, none negative and not all 0")
    counted = w > 0  # an example that does not count may well be NaN
    s, c, w = s[counted], c[counted], w[counted]
    for name, numbers in (("slope", s), ("curvature", c), ("weight", w)):
        bad = (~numbers.isfinite()).nonzero()
        if len(bad):
            raise ValueError(f"{name} of example {int(bad[0])} is {float(numbers[bad[0]])}: leave such examples out")
    if len(s) < 2:
        raise ValueError("quadratics has fewer than 2 examples of positive weight: their noise cannot be estimated")
    return s, c, w
