"""What a run of the suite leaves to ``pytest -m whole``."""

import pytest

WHOLE = pytest.mark.whole


def a_third_of(names, ways=((),), every=3):
    """Every name in every way, of which a run takes each third: with three ways, every name is among them."""
    return [
        pytest.param(name, *(way if isinstance(way, tuple) else (way,)), marks=() if (i + k) % every == 0 else WHOLE)
        for i, name in enumerate(names)
        for k, way in enumerate(ways)
    ]


def a_few_of(names, few):
    """Every name, of which a run takes a few."""
    return [pytest.param(name, marks=() if name in few else WHOLE) for name in names]
