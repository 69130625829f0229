"""A program as the library is given it, and how what the library says is compared with the vote."""

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

import alpha_func as af
from alpha_func.capture import CapturedLoss
from tests.verification.fuzzing.outcomes import THE_VOTES, Outcome, Verdict, compared
from tests.verification.fuzzing.program import Program
from tests.verification.fuzzing.references import Reference, Truth

HAS_STRICT = "strict" in inspect.signature(af.capture).parameters
_NUMBERS = ("value", "slope", "curvature")
Off = list[Outcome]


class Trial:
    """A program's objects, captured once for all the ways that it is tried.

    Args:
        program, reference: the program and the votes on it.
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

    # What is off: nothing where all is within the tolerance.

    def inputs_changed(self) -> Off:
        """That an input has been changed."""
        pairs = zip(self._before, self._tensors(), strict=True)
        same = all(torch.equal(before.nan_to_num(), now.nan_to_num()) for before, now in pairs)
        return [] if same else [Outcome(Verdict.WRONG, "an input was changed")]

    def quadratic_off(self, quadratic: Sequence[Tensor], truth: Truth | None = None, strategy: str = THE_VOTES) -> Off:
        """The three numbers against the vote at the call, or another."""
        truth = truth or self.reference.truth
        pairs = zip(_NUMBERS, quadratic, strict=True)
        return [off for name, got in pairs for off in compared(truth, name, got.detach().double(), strategy)]

    def tensors_off(self, name: str, got: Sequence[Tensor], strategy: str = THE_VOTES) -> Off:
        """Hd or the gradient against the vote at the call."""
        return compared(self.reference.truth, name, torch.cat([t.detach().double().reshape(-1) for t in got]), strategy)

    def _tensors(self) -> list[Tensor]:
        return [*self.params.values(), *self.direction.values(), *self.args]
