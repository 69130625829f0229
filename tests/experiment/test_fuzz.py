"""A few of what ``python -m tests.experiment.fuzz`` makes by the hundred."""

import pytest

from tests.experiment.fuzz import fuzz


@pytest.mark.parametrize(("part", "examples"), [("options", 25), ("tables", 25), ("records", 5)])
def test_whatever_is_made_is_refused_or_told_of_truly(part, examples):
    fuzz(part, examples)
