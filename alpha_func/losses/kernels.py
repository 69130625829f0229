"""Kernels that can be differentiated twice.

Fused kernels have hand-written first derivatives and no second: flash and efficient attention, and the fused encoder
layer of ``nn.TransformerEncoderLayer`` in eval mode. The compositions they stand for have every derivative.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Run attention by its composition of products and a softmax; the settings are put back at the end.

    >>> with twice_differentiable():
    ...     torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()
    (False, False)
    """
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
