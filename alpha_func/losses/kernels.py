"""Kernels that can be differentiated twice.

Fused kernels have hand-written first derivatives and no second: flash and efficient attention, and the fused encoder
layer of ``nn.TransformerEncoderLayer`` in eval mode. The compositions they stand for have every derivative.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


class _Shared:
    """Settings of the process: the first thread that comes changes them, the last puts them back.

    Args:
        change: changes them, with what puts them back on the stack.
    """

    def __init__(self, change: Callable[[ExitStack], object]):
        self._change, self._lock, self._users, self._before = change, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._change(self._before)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._before.close()


def _without_fast_path(before: ExitStack) -> None:
    before.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
    torch.backends.mha.set_fastpath_enabled(False)


layers_by_parts = _Shared(_without_fast_path)  # no fused encoder layer; which layers there are, guards see
_attention_by_parts = _Shared(lambda before: before.enter_context(sdpa_kernel(SDPBackend.MATH)))


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run attention by its composition of products and a softmax; the settings are put back at the end.

    >>> with twice_differentiable():
    ...     torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()
    (False, False)
    """
    with layers_by_parts, _attention_by_parts:
        yield
