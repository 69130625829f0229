"""Parameters that no process holds whole: the quadratic is that of the whole model, however they are placed."""

from functools import partial

import pytest

from tests.helpers import sharded_ranks
from tests.helpers.ranks import start
from tests.helpers.whole import WHOLE

OF_TWO = ["transformer", "uneven", "tensor parallel", "whole beside frozen shards", "sharded outputs"]
OF_FOUR = ["fsdp over tensor parallel"]
ALL = [
    *((name, 2) for name in OF_TWO),
    *((name, 4) for name in OF_FOUR),
    *(
        pytest.param(name, 2, marks=WHOLE)
        for name in ("fsdp", "one group", "columns", "frozen", "offloaded", "float32", "bfloat16")
    ),
    *(pytest.param(name, 4, marks=WHOLE) for name in ("uneven", "transformer", "hybrid")),
]


@pytest.fixture(scope="module")
def found():
    """What the ranks find, those of a test's number of processes together."""
    kept = {}

    def of(name, ranks):
        if (name, ranks) not in kept:
            mine = OF_TWO if ranks == 2 else OF_FOUR
            names = mine if name in mine else [name]
            results = start(partial(sharded_ranks.quadratics, names=names), ranks)
            for status, printed, error in results:
                assert status == 0, error
                assert printed == results[0][1]
            kept.update(((each, ranks), numbers) for each, numbers in results[0][1].items())
        return kept[name, ranks]

    return of


@pytest.mark.parametrize(("name", "ranks"), ALL)
def test_the_quadratic_is_that_of_the_whole_model(found, name, ranks):
    calls, truth = found(name, ranks)
    tolerance = 1e-5 if name in ("float32", "bfloat16") else 1e-10
    for call in calls:
        assert call == pytest.approx(truth, rel=tolerance)
