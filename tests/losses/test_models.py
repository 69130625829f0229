"""Every layer of docs/models.md is exact when captured, and exact or refused by name under every eager strategy."""

import pytest

from alpha_func import capture, errors
from alpha_func.transforms import STRATEGIES
from tests.helpers.exactness_table import case_of, truth_along_its_direction, truth_of
from tests.helpers.models import LOSSES, MODELS, with_loss
from tests.helpers.models_table import OUTDATED, PAGE, PARTS, WAYS, captured, page, said, uncaptured, verdict
from tests.helpers.reference import assert_close, flat
from tests.helpers.whole import a_third_of
from tests.models.table import ARCHITECTURES

TOLERANCE = 1e-9
SAID = said()
NAMES = [*MODELS, *LOSSES]


def assert_exact(got, truth, direction):
    assert_close(got.value, truth.quadratic.value, TOLERANCE)
    assert_close(got.slope, truth.quadratic.slope, TOLERANCE, flat(direction).norm() * flat(truth.gradient).norm())
    assert_close(got.curvature, truth.quadratic.curvature, TOLERANCE, truth.scale)


@pytest.mark.parametrize("name", a_third_of(NAMES))
def test_captured_is_exact_by_every_strategy_or_refused(name):
    case = with_loss(name) if name == "ctc_loss" else case_of(name)
    found, quadratic, products = captured(case)
    assert found == SAID[name][0], OUTDATED
    if quadratic is not None:
        truth = truth_along_its_direction(name)
        assert_exact(quadratic, truth, case.direction)
        for hd in products:
            assert_close(flat(case.direction) @ flat(hd), truth.quadratic.curvature, TOLERANCE, truth.scale)


def test_ctc_loss_is_refused_by_name():
    case = with_loss("ctc_loss")
    with pytest.raises(errors.CaptureError, match=r"aten._ctc_loss"):
        capture(case.loss)(case.params, *case.args)


@pytest.mark.parametrize(("name", "strategy"), a_third_of(NAMES, tuple(STRATEGIES)))
def test_uncaptured_is_exact_or_refused(name, strategy):
    case = next(cases[name] for cases in PARTS.values() if name in cases)()
    if name == "embedding, padding row":
        case.direction["0.weight"][0] = 0  # torch's gradient holds that row constant, forward mode does not
    found, got = verdict(uncaptured, case, strategy)
    assert found == SAID[name][WAYS.index(strategy)], OUTDATED
    if found == "yes":
        assert_exact(got, truth_of(name, case.direction), case.direction)


def test_page_has_a_row_for_each_layer_and_none_of_what_is_not_there():
    assert {*NAMES} <= SAID.keys() <= {*NAMES, *ARCHITECTURES}
    assert PAGE.read_text() == page(SAID)
