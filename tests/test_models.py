"""Every model of the table is exact when captured, under every strategy, or refused with a named reason."""

import importlib.util

import pytest
from cases import Case
from models import HUGGING_FACE, LOSSES, MODELS, WeightNormedInPrimitives, hugging_face, regression, with_loss
from models_table import PAGE, page
from reference import assert_close, differences, double_backward, flat

from alpha_func import STRATEGIES, CaptureError, StrategyError, capture, quadratic_along
from alpha_func.kernels import twice_differentiable

TOLERANCE = 1e-9
NO_DOUBLE_BACKWARD = {
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_margin_loss, few labels",
    "MLP, Hardsigmoid",
}  # piecewise linear
hf_only = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra 'transformers'")


def truth_of(name: str, case: Case, **kwargs):
    """The quadratic and the scale of its curvature; by double backward, where that is right."""
    with twice_differentiable():
        if name in NO_DOUBLE_BACKWARD:
            truth = differences(case.loss, case.params, case.direction, *case.args)
            return truth, 1e3 * (abs(truth.value) + abs(truth.curvature))  # 1e-6: what differences resolve
        loss = regression(WeightNormedInPrimitives, 3)().loss if name == "weight_norm" else case.loss
        params = case.params
        if name == "weight_norm":
            params = {f"net.{n}" if not n.startswith("net.") else n: p for n, p in params.items()}
        truth, norm = double_backward(loss, params, case.direction, *case.args, **kwargs)
        return truth, flat(case.direction).norm() * norm + abs(truth.value)


def check(name: str, case: Case, strategy: str, **kwargs) -> None:
    truth, scale = truth_of(name, case, **kwargs)
    got = quadratic_along(capture(case.loss), strategy=strategy)(case.params, case.direction, *case.args, **kwargs)
    assert_close(got.value, truth.value, TOLERANCE)
    assert_close(got.slope, truth.slope, TOLERANCE, abs(truth.slope) + abs(truth.value) + scale)
    assert_close(got.curvature, truth.curvature, TOLERANCE, scale)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", MODELS)
def test_captured_model_is_exact(name, strategy):
    check(name, MODELS[name](), strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", LOSSES.keys() - {"ctc_loss"})
def test_captured_loss_of_torch_is_exact(name, strategy):
    check(name, with_loss(name), strategy)


def test_ctc_loss_is_refused_by_name():
    case = with_loss("ctc_loss")
    with pytest.raises(CaptureError, match=r"aten._ctc_loss"):
        capture(case.loss)(case.params, *case.args)


@hf_only
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", HUGGING_FACE)
def test_captured_transformer_of_hugging_face_is_exact(name, strategy):
    case = hugging_face(name)
    check(name, case._replace(args=()), strategy, **case.args[0])


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
    truth, scale = truth_of(name, case)
    assert_close(got.curvature, truth.curvature, TOLERANCE, scale)


@hf_only
def test_page_of_models_is_current():
    assert PAGE.read_text() == page(), "run python tests/models_table.py"
