"""Every architecture of docs/models.md is what the page says of it; a run of the suite takes a sixth of each field."""

import random

import pytest

from tests.helpers.architectures import WAYS, examine
from tests.helpers.models_table import FIELDS, OUTDATED, said
from tests.helpers.whole import WHOLE
from tests.models.table import ARCHITECTURES

SAID = said()
TRIED = [name for name in ARCHITECTURES if name in SAID]


def a_sixth_of_each_field():
    """All names; those that are not drawn are left to the whole."""
    drawn = set()
    for field in FIELDS:
        names = [name for name in TRIED if ARCHITECTURES[name].field == field]
        drawn |= set(random.Random(field).sample(names, max(1, len(names) // 6)))
    return [pytest.param(name, marks=() if name in drawn else WHOLE) for name in TRIED]


def found(name, ways):
    try:
        return examine(name, ways)
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        pytest.skip("needs the extra 'transformers'")


@pytest.mark.parametrize("name", a_sixth_of_each_field())
def test_captured_architecture_is_what_the_page_says(name):
    assert found(name, WAYS[:1]) == {WAYS[0]: SAID[name][1]}, OUTDATED


@WHOLE
@pytest.mark.parametrize("name", TRIED)
def test_every_way_is_what_the_page_says(name):
    assert [ARCHITECTURES[name].call, *found(name, WAYS).values()] == SAID[name], OUTDATED


def test_no_architecture_is_wrong_or_ends_in_a_raw_error():
    assert not [name for name in TRIED if any(cell.startswith(("WRONG", "RAISED")) for cell in SAID[name])]


def test_at_least_a_hundred_architectures_are_exact_captured():
    assert sum(SAID[name][1] == "yes" for name in TRIED) >= 100
