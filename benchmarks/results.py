"""The CSV files of a run: rows are added as they are found, and a run that was cut off goes on from there."""

import csv
import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.against_dense import Alphas
from benchmarks.settings import Settings
from benchmarks.timings import Timing
from benchmarks.trials import Trial

PACKAGES = (
    "torch", "numpy", "curvlinops-for-pytorch", "backpack-for-pytorch", "pyhessian", "hessian-eigenthings", "jax",
    "jaxlib",
)  # fmt: skip
FREE = ("models", "ways", "workers", "patience", "extra")  # settings that may differ between the parts of one run


class Results:
    """The files of one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def begin(self, settings: Settings, *, fresh: bool) -> None:
        """Remove what is there, or check that it was made with the same settings."""
        run = self.folder / "run.json"
        if fresh:
            for path in self.folder.glob("*"):
                if path.suffix in (".csv", ".json"):
                    path.unlink()
        if run.exists():
            before, now = json.loads(run.read_text())["settings"], json.loads(json.dumps(asdict(settings)))
            differing = [name for name in now if name not in FREE and before.get(name) != now[name]]
            if differing:
                shown = ", ".join(f"{name} was {before.get(name)} and is {now[name]}" for name in differing)
                raise SystemExit(f"{self.folder} holds another run ({shown}): say --fresh, or another --output")
        else:
            self._write({"settings": asdict(settings), "machine": machine()})

    def took(self, seconds: float) -> None:
        """Add to what the parts of the run have taken together."""
        known = self.run()
        known["seconds"] = round(known.get("seconds", 0) + seconds)
        self._write(known)

    def add(self, name: str, rows: list[Any]) -> None:
        """Append rows to name.csv."""
        if not rows:
            return
        path = self.folder / f"{name}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow(rows[0]._fields)
            writer.writerows([f"{v:.6g}" if isinstance(v, float) else "" if v is None else v for v in r] for r in rows)

    def trials(self) -> list[Trial]:
        """What trials.csv holds."""
        return self._rows("trials", Trial)

    def timings(self) -> list[Timing]:
        """What times.csv holds."""
        return self._rows("times", Timing)

    def alphas(self) -> list[Alphas]:
        """What alphas.csv holds."""
        return self._rows("alphas", Alphas)

    def run(self) -> dict[str, Any]:
        """Settings and machine."""
        return json.loads((self.folder / "run.json").read_text())

    def _write(self, known: dict[str, Any]) -> None:
        (self.folder / "run.json").write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")

    def _rows(self, name: str, kind: Any) -> list[Any]:
        path = self.folder / f"{name}.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [kind(**{key: _read(key, text) for key, text in row.items()}) for row in csv.DictReader(file)]


def _read(key: str, text: str) -> Any:
    if key in _TEXT:
        return text
    if key in ("rounds", "calls", "points", "peak_bytes"):
        return int(text) if text else None
    return float(text) if text else None


_TEXT = {"model", "way", "dtype", "outcome", "message"}


class Machine(NamedTuple):
    """What a run was made on."""

    processor: str
    cores: int
    system: str
    python: str
    packages: dict[str, str]
    device: str


def machine() -> dict[str, Any]:
    """Processor, system and versions."""
    import os

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    system = f"{platform.system()} {platform.machine()}"
    return Machine(_processor(), os.cpu_count() or 1, system, platform.python_version(), packages, device)._asdict()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
