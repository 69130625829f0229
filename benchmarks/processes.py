"""Work in a process of its own: a way that kills the interpreter, or never ends, is a result.

Children are forked from a server that has imported torch and nothing else of weight, so one costs milliseconds.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

PRELOADED = ["torch.func", "torch._dynamo", "torch._inductor.compile_fx", "torch.profiler", "benchmarks.trials"]


class Job(NamedTuple):
    """function(say, *args) in a child; ``say`` sends a message to the parent."""

    name: Any
    function: Callable[..., None]
    args: tuple[Any, ...]
    seconds: float


class Ended(NamedTuple):
    """The messages of a child, and how it ended: "" as it should, else "crashes: ..." or "timeout: ..."."""

    job: Job
    messages: list[Any]
    how: str


def run_jobs(jobs: Sequence[Job], workers: int, threads: int) -> Iterator[Ended]:
    """Run each job in a child, ``workers`` at a time, in their order; yields as they end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    waiting, running = list(jobs)[::-1], []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_Child(context, waiting.pop(), threads))
            wait([child.pipe for child in running], timeout=0.5)
            for child in list(running):
                if child.ended():
                    running.remove(child)
                    yield Ended(child.job, child.messages, child.how)
    finally:
        for child in running:
            child.process.kill()


class _Child:
    def __init__(self, context: Any, job: Job, threads: int):
        self.job, self.messages, self.how = job, [], ""
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, job.function, job.args, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.deadline = time.monotonic() + job.seconds

    def ended(self) -> bool:
        """Take the messages that have come; whether no more will."""
        try:
            while self.pipe.poll():
                self.messages.append(self.pipe.recv())
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            self.how = f"crashes: {_signal(code)}" if code else ""
            return True
        if time.monotonic() < self.deadline:
            return False
        self.process.kill()
        self.process.join()
        self.how = f"timeout: no answer in {self.job.seconds:.0f} s"
        return True


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _work(pipe: Connection, function: Callable[..., None], args: tuple[Any, ...], threads: int) -> None:
    import warnings

    import torch

    with open(os.devnull, "w") as nowhere:  # what profilers and compilers print
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())
    warnings.simplefilter("ignore")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > threads and threads > 1:
        os.sched_setaffinity(0, cores[:threads])  # the thread pool of JAX is as large as what it may run on
    torch.set_num_threads(threads)
    function(pipe.send, *args)
    pipe.close()
    os._exit(0)  # not through the finalisers of compilers and thread pools: what they do is no result


def first_line(error: BaseException) -> str:
    """The type and the first line of an error."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].strip()}"[:160]
