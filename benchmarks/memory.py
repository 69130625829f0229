"""The peak memory of a call: what its allocations add to what was there before it."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """The most bytes live at once during a call, above those at its start; its results count.

    On the CPU from the allocations and releases that PyTorch's allocator reports to the profiler, eager and compiled
    alike, so the same number at every run; what a library allocates for itself (oneDNN's scratch pad) is not seen. On a
    device from the allocator's own peak.
    """
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as recorded:
        result = call()
    del result
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = 0
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak
