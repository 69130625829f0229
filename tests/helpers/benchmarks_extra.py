"""A model and two ways that are no good, each added to the benchmark by one function."""

import os
import signal
import time

from torch import nn

from benchmarks.models import model, regression
from benchmarks.problems import Case
from benchmarks.ways import way


@model("one parameter")
def one_parameter(small):
    """A single weight."""
    return Case(nn.Linear(1, 1, bias=False), nn.MSELoss(), regression(8, 1))


@way("kills the interpreter")
def kills(problem):
    """As torch.compile of jvp(jvp) does."""
    return lambda point: os.kill(os.getpid(), signal.SIGSEGV)


@way("never ends")
def never_ends(problem):
    """Sleeps."""
    return lambda point: time.sleep(1000)
