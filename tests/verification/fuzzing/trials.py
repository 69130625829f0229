"""A program as the library is given it, and how what the library says is compared with the reference."""

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

import alpha_func as af
from alpha_func.capture import CapturedLoss
from tests.verification.fuzzing.program import Program
from tests.verification.fuzzing.references import Kind, Numbers, Reference

HAS_STRICT = "strict" in inspect.signature(af.capture).parameters
_NUMBERS = ("value", "slope", "curvature")


class Trial:
    """A program's objects, captured once for all the ways that it is tried.

    Args:
        program, reference: the program and the vote on it.
        backend: of the captured programs.
        strict: whether a sweep that is not proven raises, rather than being answered by the independent route.
    """

    def __init__(self, program: Program, reference: Reference, backend: str = "eager", *, strict: bool = HAS_STRICT):
        self.program, self.reference, self.backend, self.strict = program, reference, backend, strict
        self.loss, self.params, self.direction, self.args = program.built()
        self._before = [t.clone() for t in self._tensors()]

    def relaxed(self) -> "Trial":
        """The same, not strict."""
        return Trial(self.program, self.reference, self.backend, strict=False)

    @cached_property
    def captured(self) -> CapturedLoss:
        """The captured loss."""
        return self.capture(self.loss)

    def capture(self, loss: Callable[..., Tensor]) -> CapturedLoss:
        """Another loss, captured likewise."""
        return af.capture(loss, backend=self.backend, **({"strict": self.strict} if HAS_STRICT else {}))

    def inputs_changed(self) -> list[str]:
        """What is off where an input has been changed."""
        pairs = zip(self._before, self._tensors(), strict=True)
        same = all(torch.equal(before.nan_to_num(), now.nan_to_num()) for before, now in pairs)
        return [] if same else ["an input was changed"]

    def _tensors(self) -> list[Tensor]:
        return [*self.params.values(), *self.direction.values(), *self.args]

    # What is off, as messages: none where all is within the tolerance.

    def quadratic_off(self, quadratic: Sequence[Tensor], wanted: Numbers | None = None) -> list[str]:
        """The three numbers against the reference, or against others."""
        found = []
        for what, got, want in zip(_NUMBERS, quadratic, wanted or self.reference.numbers, strict=True):
            error = abs(float(got) - want)
            if not self._within(error, abs(want)):
                found.append(f"{what} {float(got):.12g} expected {want:.12g}")
        return found

    def tensors_off(self, what: str, got: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[str]:
        """Tensors against the reference's."""
        flat, want = (torch.cat([t.detach().double().reshape(-1) for t in ts]) for ts in (got, wanted))
        error, largest = float((flat - want).abs().max()), float(want.abs().max())
        within = self._within(error, largest)
        return [] if within else [f"{what} (largest error {error:.3g}) expected largest {largest:.3g}"]

    def _within(self, error: float, size: float) -> bool:
        """Not so for a NaN."""
        reference = self.reference
        if self.program.is_rough:
            return error <= 3e-3 * size + 3e-4 * reference.scale + 50 * reference.noise
        tolerance = 1e-6 * size + 1e-8 * reference.scale
        if reference.kind in (Kind.PYTORCH_WRONG, Kind.PYTORCH_RAISES, Kind.NOT_FINITE):
            tolerance += 1e-4 * reference.scale  # what differences resolve
        return error <= tolerance or error <= 1e4 * reference.spread
