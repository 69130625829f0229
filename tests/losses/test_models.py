"""Every model of the table is exact when captured, under every strategy, or refused with a named reason."""

import importlib.util

import pytest

from alpha_func import capture, quadratic_along
from alpha_func.errors import CaptureError, StrategyError
from alpha_func.transforms import STRATEGIES
from tests.helpers.exactness_table import called, case_of, truth_along_its_direction, truth_of
from tests.helpers.models import HUGGING_FACE, LOSSES, MODELS, with_loss
from tests.helpers.models_table import PAGE, page
from tests.helpers.reference import assert_close, flat

TOLERANCE = 1e-9
hf_only = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra 'transformers'")


def check(name: str, strategy: str) -> None:
    case, kwargs = called(case_of(name))
    truth = truth_along_its_direction(name)
    got = quadratic_along(capture(case.loss), strategy=strategy)(case.params, case.direction, *case.args, **kwargs)
    assert_close(got.value, truth.quadratic.value, TOLERANCE)
    assert_close(got.slope, truth.quadratic.slope, TOLERANCE, flat(case.direction).norm() * flat(truth.gradient).norm())
    assert_close(got.curvature, truth.quadratic.curvature, TOLERANCE, truth.scale)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", MODELS)
def test_captured_model_is_exact(name, strategy):
    check(name, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", LOSSES.keys() - {"ctc_loss"})
def test_captured_loss_of_torch_is_exact(name, strategy):
    check(name, strategy)


def test_ctc_loss_is_refused_by_name():
    case = with_loss("ctc_loss")
    with pytest.raises(CaptureError, match=r"aten._ctc_loss"):
        capture(case.loss)(case.params, *case.args)


@hf_only
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_captured_transformer_of_hugging_face_is_exact(name, strategy):
    check(name, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", [*MODELS, *LOSSES])
def test_uncaptured_is_exact_or_refused(name, strategy):
    case = with_loss(name) if name in LOSSES else MODELS[name]()
    if name == "embedding, padding row":
        case.direction["0.weight"][0] = 0  # torch's gradient holds that row constant, forward mode does not
    try:
        got = quadratic_along(case.loss, strategy=strategy)(case.params, case.direction, *case.args)
    except (StrategyError, RuntimeError):
        return
    truth = truth_of(name, case.direction)
    assert_close(got.curvature, truth.quadratic.curvature, TOLERANCE, truth.scale)


@hf_only
def test_page_of_models_is_current():
    assert PAGE.read_text() == page(), "run python tests/models_table.py"
