"""Kernels that can be differentiated twice.

Fused kernels have hand-written first derivatives and no second: flash and efficient attention, and the fused encoder
layer of ``nn.TransformerEncoderLayer`` in eval mode. The compositions they stand for have every derivative.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_lock = threading.Lock()
_users = 0  # the settings are the process's: the first thread that comes changes them, the last puts them back
_settings = ExitStack()


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run attention by its composition of products and a softmax; the settings are put back at the end.

    >>> with twice_differentiable():
    ...     torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()
    (False, False)
    """
    global _users
    with _lock:
        if not _users:
            _settings.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            torch.backends.mha.set_fastpath_enabled(False)
            _settings.enter_context(sdpa_kernel(SDPBackend.MATH))
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _settings.close()
