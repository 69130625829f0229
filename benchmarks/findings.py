"""What the CSV files of a run say of a way on a model: the numbers and the cells of the report."""

from collections.abc import Callable

from benchmarks.models import MODELS
from benchmarks.results import Results
from benchmarks.trials import Trial, parameters_of
from benchmarks.ways import UNIT, WAYS, Way


class Findings:
    """The rows of a run, by model and way; models and ways in the order of their registers."""

    def __init__(self, results: Results):
        self.run, self.alphas, self.timings = results.run(), results.alphas(), results.timings()
        self.dtype = self.run["settings"]["dtype"]
        self.trials = results.trials()
        self._trials = {(t.model, t.way, t.dtype): t for t in self.trials}
        self._timings = {(t.model, t.way): t for t in self.timings}
        seen = {t.model for t in self.trials}
        self.models = [name for name in MODELS if name in seen and not MODELS[name].curve]
        self.curve_models = [name for name in MODELS if name in seen and MODELS[name].curve]
        tried = {t.way for t in self.trials if t.outcome != "absent"}
        self.ways = [name for name in WAYS if name in tried]

    def trial(self, model: str, way: str, dtype: str = "") -> Trial | None:
        """The trial, in the timed dtype unless another is named."""
        return self._trials.get((model, way, dtype or self.dtype))

    def exact(self, model: str, way: str) -> bool:
        """Whether it is in the timed dtype, and in the other where it was tried."""
        trials = [self.trial(model, way, dtype) for dtype in ("float32", "float64")]
        outcomes = {trial.outcome for trial in trials if trial is not None}
        return "exact" in outcomes and outcomes <= {"exact", "skipped"}

    def ratio(self, model: str, way: str) -> float | None:
        """Time over that of the eager gradient."""
        row = self._timings.get((model, way))
        return row.ratio if row else None

    def peak(self, model: str, way: str) -> int | None:
        """Bytes."""
        trial = self.trial(model, way)
        return trial.peak_bytes if trial else None

    def memory_ratio(self, model: str, way: str) -> float | None:
        """Peak over that of the eager gradient."""
        peak, unit = self.peak(model, way), self.peak(model, UNIT)
        return peak / unit if peak and unit else None

    def first_call(self, model: str, way: str) -> float | None:
        """Seconds."""
        trial = self.trial(model, way)
        return trial.first_call if trial else None

    def fastest(self, model: str, choice: Callable[[Way], bool]) -> str:
        """The fastest exact way among those chosen."""
        return self._best(model, choice, self.ratio)

    def leanest(self, model: str, choice: Callable[[Way], bool]) -> str:
        """The exact way with the least peak among those chosen."""
        return self._best(model, choice, self.memory_ratio)

    def _best(self, model: str, choice: Callable[[Way], bool], number: Callable[[str, str], float | None]) -> str:
        ways = [w for w in self.ways if not WAYS[w].gradient and choice(WAYS[w]) and self.exact(model, w)]
        numbered = [(n, w) for w in ways if (n := number(model, w)) is not None]
        return min(numbered)[1] if numbered else ""

    def outcome(self, model: str, way: str, dtype: str = "") -> str:
        """What stands in a cell that holds no number: "", or the outcome."""
        trial = self.trial(model, way, dtype)
        if trial is None or trial.outcome == "skipped":
            return "·"
        return "" if trial.outcome in ("exact", "inexact", "WRONG") else trial.outcome

    def time(self, model: str, way: str) -> str:
        """A cell of the table of times."""
        row = self._timings.get((model, way))
        if row is None or row.ratio is None:
            return self.outcome(model, way) or ("not timed" if row else "·")
        if way == UNIT:
            return f"{row.seconds * 1e3:.3g} ms"
        return f"{self.mark(model, way)}{row.ratio:.2f} ± {(row.high - row.low) / 2:.2f}"

    def memory(self, model: str, way: str) -> str:
        """A cell of the table of memory."""
        peak, ratio = self.peak(model, way), self.memory_ratio(model, way)
        if not peak or ratio is None:
            return self.outcome(model, way) or "·"
        return f"{peak / 2**20:.3g} MiB" if way == UNIT else f"{self.mark(model, way)}{ratio:.2f}"

    def error(self, dtype: str) -> Callable[[str, str], str]:
        """The cells of the table of errors."""

        def cell(model: str, way: str) -> str:
            trial = self.trial(model, way, dtype)
            if trial is None or trial.curvature_error is None:
                return self.outcome(model, way, dtype) or "·"
            return f"{self.mark(model, way, dtype)}{trial.curvature_error:.0e}"

        return cell

    def mark(self, model: str, way: str, dtype: str = "") -> str:
        """WRONG in front of a number that belongs to a wrong answer."""
        trial = self.trial(model, way, dtype)
        return "**WRONG** " if trial and trial.outcome == "WRONG" else ""

    def parameter_note(self, model: str) -> str:
        """The gradient's peak with its result counted, and without."""
        peak, bytes_each = self.peak(model, UNIT), 4 if self.dtype == "float32" else 8
        held = parameters_of(model, self.run["settings"]["small"]) * bytes_each
        if not peak:
            return ""
        without = (peak - held) / 2**20
        return f"The gradient's own peak holds its result, {held / 2**20:.2f} MiB; without it, {without:.2f} MiB."
