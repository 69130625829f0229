"""Where records go: each logger is read back by the library that it writes for."""

import csv
import json
import logging
import math
import struct
import sys
import time
from pathlib import Path

import pytest

from alpha_func.observer import StepRecord
from alpha_func.observer.loggers import CSVLog, JSONLinesLog, MLflowLog, TensorBoardLog, WandbLog
from alpha_func.observer.record import columns

RECORDS = [
    StepRecord(
        0, 2.5, -0.5, 0.25, 2.0, 0.2, 0.1, 2.1, 1.1, 1.5, 0.11, 0.9, 0.0, 2.5, -0.5, 1.0, True, {"seconds": 0.01}
    ),
    StepRecord(
        10, math.nan, -0.5, 0.0, math.inf, -math.inf, 0.1, math.nan, math.nan, 1.5, 0.0, 0.9, 0.0, math.nan,
        -0.7, math.nan, False, {"seconds": 0.01},
    ),
]  # fmt: skip
COLUMNS = [*StepRecord._fields[:-1], "seconds"]
NUMBERS = [name for name in COLUMNS if name != "step"]


def numbers(record):
    return [float(value) for value in columns(record).values()]


def test_a_csv_file_holds_the_records(tmp_path):
    log = CSVLog(tmp_path / "new" / "alpha.csv")
    for record in RECORDS:
        log(record)
    with (tmp_path / "new" / "alpha.csv").open() as file:  # on disk before it is closed
        rows = list(csv.DictReader(file))
    log.close()
    assert list(rows[0]) == COLUMNS
    for row, record in zip(rows, RECORDS, strict=True):
        read = [v == "True" if v in ("True", "False") else float(v) for v in row.values()]
        assert read == pytest.approx(numbers(record), nan_ok=True)


@pytest.mark.parametrize("kind", [CSVLog, JSONLinesLog])
def test_a_file_is_refused_or_gone_on_with(tmp_path, kind):
    path = tmp_path / "log"
    log = kind(path)
    log(RECORDS[0])
    log.close()
    with pytest.raises(FileExistsError, match="choose another path, or pass append=True"):
        kind(path)
    log = kind(path, append=True)
    log(RECORDS[1])
    log.close()
    assert len(path.read_text().splitlines()) == (3 if kind is CSVLog else 2)


@pytest.mark.parametrize("kind", [CSVLog, JSONLinesLog])
@pytest.mark.parametrize("kept", ["nothing", "half a line", "a line", "a line and a half"])
def test_a_torn_last_row_is_not_glued_to_the_next(tmp_path, kind, kept):
    def lines_of(path, records, *, append=False):
        log = kind(path, append=append)
        for record in records:
            log(record)
        log.close()
        return path.read_bytes()

    whole = lines_of(tmp_path / "whole", RECORDS)
    first = whole.index(b"\n") + 1
    end = {"nothing": 0, "half a line": first // 2, "a line": first, "a line and a half": (first + len(whole)) // 2}[
        kept
    ]
    torn = tmp_path / "torn"
    torn.write_bytes(whole[:end])
    kept_lines = whole[:end].count(b"\n")
    rest = RECORDS[max(kept_lines - (kind is CSVLog), 0) :]
    if whole[:end].endswith(b"\n") or not end:
        assert lines_of(torn, rest, append=True) == whole
    else:
        with pytest.warns(UserWarning, match=r"incomplete line of \d+ bytes, which was removed"):
            assert lines_of(torn, rest, append=True) == whole


@pytest.mark.parametrize("kind", [CSVLog, JSONLinesLog])
def test_a_full_disk_is_an_error_and_leaves_whole_rows(tmp_path, kind):
    resource = pytest.importorskip("resource")
    log = kind(tmp_path / "log")
    log(RECORDS[0])
    before = (tmp_path / "log").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))  # room for a part of a row
    try:
        with pytest.raises(OSError, match="File too large"):
            log(RECORDS[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "log").read_bytes() == before
    log(RECORDS[1])  # there is room again
    log.close()
    assert len((tmp_path / "log").read_bytes()) > len(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_that_is_full_says_so():
    log = CSVLog("/dev/full", append=True)
    with pytest.raises(OSError, match="No space left"):
        log(RECORDS[0])
    log.close()


def test_numbers_have_the_digits_that_are_asked_for(tmp_path):
    log = CSVLog(tmp_path / "log", digits=9)
    log(RECORDS[0]._replace(loss=1 / 3))
    log.close()
    (row,) = csv.DictReader((tmp_path / "log").read_text().splitlines())
    assert (row["step"], row["loss"]) == ("0", "0.333333333")


def test_rows_of_other_columns_are_not_appended(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("a,b\n1,2\n")
    log = CSVLog(path, append=True)
    with pytest.raises(ValueError, match=r"has the columns \['a', 'b'\], expected \['step'"):
        log(RECORDS[0])
    log.close()
    assert path.read_text() == "a,b\n1,2\n"


def test_json_lines_are_json_and_floats_again(tmp_path):
    log = JSONLinesLog(tmp_path / "alpha.jsonl")
    for record in RECORDS:
        log(record)
    log.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "alpha.jsonl").read_text().splitlines()]
    for line, record in zip(lines, RECORDS, strict=True):
        assert list(line) == COLUMNS
        assert [float(value) for value in line.values()] == pytest.approx(numbers(record), nan_ok=True)


@pytest.mark.parametrize("own", [True, False])
def test_tensorboard_reads_the_scalars_back(tmp_path, own):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    writer = tmp_path if own else SummaryWriter(str(tmp_path))
    log = TensorBoardLog(writer)
    for record in RECORDS:
        log(record)
    log.close()
    if not own:
        writer.add_scalar("mine", 1.0)  # still open
        writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {f"alpha_func/{name}" for name in NUMBERS} <= set(events.Tags()["scalars"])
    for name in NUMBERS:
        scalars = events.Scalars(f"alpha_func/{name}")
        assert [s.step for s in scalars] == [0, 10]
        assert [s.value for s in scalars] == pytest.approx([float(columns(r)[name]) for r in RECORDS], nan_ok=True)


def leveldb_records(content, header=7, block=32768):
    """The records of a LevelDB log, as wandb's files are: (crc, length, type) before each piece, none across blocks."""
    at, whole = header, b""
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


@pytest.mark.filterwarnings("ignore")  # wandb's own
@pytest.mark.parametrize("commit", [True, False])
def test_wandb_keeps_the_records_beside_the_callers_own_rows(tmp_path, monkeypatch, commit):
    import wandb
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    with pytest.raises(ValueError, match=r"call wandb.init\(\) first"):
        WandbLog()
    run = wandb.init(mode="offline", project="test", dir=str(tmp_path))
    log = WandbLog(commit=commit)
    for epoch, record in enumerate(RECORDS):
        log(record)
        run.log({"mine": epoch})
    run.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")

    def history():
        for data in leveldb_records(path.read_bytes()):
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(data)
            if entry.WhichOneof("record_type") == "history":
                yield {(i.key or "/".join(i.nested_key)): i.value_json for i in entry.history.item}

    deadline = time.monotonic() + 600  # wandb's service writes on its own time
    while len(rows := list(history())) < (4 if commit else 2) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(rows) == (4 if commit else 2)
    written = [row for row in rows if "alpha_func/step" in row]
    assert [json.loads(row["alpha_func/step"]) for row in written] == [0, 10]
    assert json.loads(written[0]["alpha_func/alpha_steps"]) == 2.0
    assert [json.loads(row["mine"]) for row in rows if "mine" in row] == [0, 1]


@pytest.mark.filterwarnings("ignore")  # mlflow's own
def test_mlflow_keeps_the_history_of_every_metric(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import mlflow

    logging.getLogger("alembic").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(ValueError, match=r"call mlflow.start_run\(\) first"):
        MLflowLog()
    with mlflow.start_run() as run:
        log = MLflowLog()
    for record in RECORDS:  # the run need not be active
        log(record)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "alpha_func/loss")
    assert [m.step for m in history] == [0, 10]
    assert [m.value for m in history] == pytest.approx([2.5, math.nan], nan_ok=True)
    (alpha, _) = mlflow.MlflowClient().get_metric_history(run.info.run_id, "alpha_func/alpha_steps")
    assert alpha.value == 2.0


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (lambda: WandbLog(), "wandb", "wandb"),
        (lambda: MLflowLog(), "mlflow", "mlflow"),
        (lambda: TensorBoardLog("runs"), "tensorboard", "tensorboard"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, make, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module} is not installed: pip install 'alpha-func\[{extra}\]'"):
        make()
