"""The first two uses of a scheme: it is proven, or given up with one warning; under ``strict``, an error instead."""

from collections.abc import Callable

import torch

from alpha_func.capture.rewrites.in_double import program_in_double
from alpha_func.capture.running.backends import Runnable
from alpha_func.capture.running.blame import Program, culprit
from alpha_func.capture.running.difference import Doubt
from alpha_func.capture.running.points import NoEvidence
from alpha_func.capture.running.proof import Candidate, Case
from alpha_func.capture.running.schemes import Scheme, Schemes
from alpha_func.capture.tracing.agreement import aside
from alpha_func.errors import CaptureError, CaptureWarning, warn

_GIVEN_UP = "the {} of a captured loss failed its check and is not used: {}. The cause is {}"
_INSTEAD = "; double backward is used instead, which is correct and slower. Please report it"
_STRICT = "; leave out strict=True to use double backward instead, which is correct and slower"


class FirstUse:
    """What happens before a scheme is trusted.

    Args:
        strict: raise where a scheme does not serve.

    Attributes:
        given_up: what has been warned of.
    """

    def __init__(self, strict: bool):
        self.strict = strict
        self.given_up: list[str] = []

    def __call__(self, schemes: Schemes, scheme: Scheme, backend: str, case: Callable[[], Case]) -> Runnable | None:
        """What runs the scheme from now on; None where an independent route is to answer.

        Raises:
            CaptureError: under ``strict``, the scheme does not serve.
        """
        if schemes.unswept:
            if self.strict:
                raise CaptureError(
                    f"the second forward derivative of {', '.join(schemes.unswept)} has not been verified{_STRICT}"
                )
            scheme.proven[backend] = None
            return None
        away = backend in scheme.begun
        try:
            with aside():
                candidate = scheme.candidate(backend)
            compared = case()
            found = compared.doubt(candidate, away=away)
            schemes.misled |= compared.misled
        except NoEvidence as lacking:
            return self._unproven(scheme, backend, lacking)
        except (torch.OutOfMemoryError, CaptureError):
            raise
        except Exception as error:
            self.give_up(schemes, scheme, backend, case, error)
            return None
        if found is not None:
            self.give_up(schemes, scheme, backend, case, found)
            return None
        run = scheme.ready(backend)
        if away:
            scheme.proven[backend] = run
            return run
        scheme.begun.add(backend)
        return run if backend == "transformable" or scheme.is_proven_otherwise else compared.answer

    def give_up(
        self, schemes: Schemes, scheme: Scheme, backend: str, case: Callable[[], Case], why: Doubt | Exception
    ) -> None:
        """Answer by an independent route from now on."""
        what = why.what if isinstance(why, Doubt) else f"{type(why).__name__}: {why}"
        of_program = isinstance(why, Doubt) and why.of_program
        blamed = "the program itself" if of_program else self._culprit(schemes, scheme, backend, case)
        message = _GIVEN_UP.format(scheme.name, what, blamed)
        if self.strict:
            raise CaptureError(message + _STRICT) from (why if isinstance(why, Exception) else None)
        scheme.proven[backend] = None
        schemes.is_the_loss &= not of_program
        if blamed not in self.given_up:
            self.given_up.append(blamed)
            warn(message + _INSTEAD, CaptureWarning)

    def _unproven(self, scheme: Scheme, backend: str, lacking: NoEvidence) -> Runnable:
        """The scheme unproven: there is nothing to compare it with, here or at any call."""
        run = scheme.ready(backend)
        if lacking.lasting:
            if self.strict:
                raise CaptureError(f"the {scheme.name} of a captured loss cannot be checked: {lacking}")
            scheme.proven[backend] = run
            warn(f"the {scheme.name} of a captured loss could not be checked: {lacking}", CaptureWarning)
        return run

    @staticmethod
    def _culprit(schemes: Schemes, scheme: Scheme, backend: str, case: Callable[[], Case]) -> str:
        away = backend in scheme.begun
        operators = {node.target for node in schemes.graph.graph.nodes if node.op == "call_function"}
        try:
            compared = case()
            compared.votes = False  # differences have been asked
        except NoEvidence:
            return "the sweep"
        with aside():
            return culprit(
                scheme.with_before,
                operators,
                backend,
                lambda run, program: compared.doubt(_like(scheme, run, program), away=away) is None,
            )


def _like(scheme: Scheme, run: Program, program: Program) -> Candidate:
    return scheme.proven_as(Candidate(run, lambda: program, lambda: program_in_double(run), scheme.anew))
