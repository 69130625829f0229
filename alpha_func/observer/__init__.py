"""α* of the steps of a training loop that exists already: the observer, its records, and where they go."""

from alpha_func.observer.loggers import CSVLog, JSONLinesLog, MLflowLog, TensorBoardLog, WandbLog
from alpha_func.observer.observer import Observer
from alpha_func.observer.record import StepRecord
from alpha_func.observer.scheduler import AlphaLR

__all__ = ["AlphaLR", "CSVLog", "JSONLinesLog", "MLflowLog", "Observer", "StepRecord", "TensorBoardLog", "WandbLog"]
