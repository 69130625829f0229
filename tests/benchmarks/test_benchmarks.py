"""The benchmark's judgement: exact where it must be, WRONG where PyTorch is known to be, and a crash is a result."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from alpha_func.verified.differences import differences
from benchmarks.findings import Findings
from benchmarks.problems import Problem, draw_points, truths
from benchmarks.results import Results
from benchmarks.settings import Settings
from benchmarks.trials import Trial, case_of, judged, try_all

SETTINGS = Settings(small=True, workers=1, threads=1, patience=3600.0, extra=("tests.helpers.benchmarks_extra",))
OURS = ("quadratic_along", "quadratic_along captured", "grad_and_quadratic", "grad_and_quadratic captured")
MODELS = ("10-5-1", "mlp+layernorm")
RIGHT = ("vjp(grad)", "double backward", *OURS)


@pytest.fixture(scope="module")
def outcomes():
    """One server of children serves them all: (model, way, dtype) -> trial."""
    SETTINGS.register()
    pairs = [(model, way) for model in MODELS for way in RIGHT]
    pairs += [(model, way) for model in MODELS[1:] for way in ("grad(jvp)", "jvp(jvp)")]
    pairs += [("10-5-1", "jvp(grad)"), ("10-5-1", "kills the interpreter")]
    pairs += [("one parameter", "double backward")]
    trials = [trial for rows in try_all(SETTINGS, pairs) for trial in rows]
    impatient = replace(SETTINGS, patience=3.0)
    trials += [trial for rows in try_all(impatient, [("10-5-1", "never ends")]) for trial in rows]
    return {(trial.model, trial.way, trial.dtype): trial for trial in trials}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", RIGHT)
def test_what_must_be_exact_is(outcomes, model, way, dtype):
    trial = outcomes[model, way, dtype]
    assert trial.outcome == "exact", trial


@pytest.mark.parametrize("model", MODELS[1:])
@pytest.mark.parametrize("way", ["grad(jvp)", "jvp(jvp)"])
def test_forward_derivatives_of_normalisation_are_marked_wrong(outcomes, model, way):
    trial = outcomes[model, way, "float64"]
    assert trial.outcome == "WRONG", trial


def test_what_raises_says_so_with_the_first_line(outcomes):
    trial = outcomes["10-5-1", "jvp(grad)", "float64"]
    assert trial.outcome == "raises"
    assert "ZeroTensors are immutable" in trial.message


def test_a_way_that_kills_the_interpreter_is_a_result(outcomes):
    trial = outcomes["10-5-1", "kills the interpreter", "float32"]
    assert (trial.outcome, trial.message) == ("crashes", "SIGSEGV")
    assert outcomes["10-5-1", "kills the interpreter", "float64"].outcome == "skipped"


def test_a_way_that_never_ends_is_a_result(outcomes):
    assert outcomes["10-5-1", "never ends", "float32"].outcome == "timeout"


def test_an_added_model_is_one_function(outcomes):
    assert outcomes["one parameter", "double backward", "float64"].outcome == "exact"


@pytest.mark.parametrize("model", ["mlp+layernorm", "resnet", "gpt softmax", "gpt sdpa", "lstm"])
def test_the_reference_is_the_second_derivative_along_the_line(model):
    case = case_of(model, small=True)
    points = draw_points(case, 1)
    (truth,) = truths(case, points)
    problem = Problem(case, points, "cpu", torch.float64)
    (point,) = problem.points

    def h(alpha):
        params = {name: p + alpha * point.direction[name] for name, p in point.params.items()}
        return float(problem.loss(params, *point.batch).detach())

    norm = math.sqrt(sum(float(d.square().sum()) for d in point.direction.values()))
    found = differences(h, 1 / norm, (0.05, 0.004, 0.0004))
    assert found.smooth
    assert abs(found.curvature - truth.curvature) <= 1e-6 * found.scale, (found.curvature, truth.curvature)


@pytest.mark.parametrize(
    ("float32", "float64", "exact"),
    [("exact", "exact", True), ("exact", "skipped", True), ("exact", "WRONG", False), ("crashes", "skipped", False)],
)
def test_a_way_is_recommended_where_every_trial_of_it_was_exact(tmp_path, float32, float64, exact):
    results = Results(tmp_path)
    results.begin(SETTINGS, fresh=True)
    results.add(
        "trials", [Trial("mlp", "jvp(grad)", "float32", float32), Trial("mlp", "jvp(grad)", "float64", float64)]
    )
    assert Findings(results).exact("mlp", "jvp(grad)") is exact


def test_an_answer_that_is_not_a_number_is_wrong():
    truth = (1.0, 2.0, 1.0, 2.0)
    assert judged([(1.0, math.nan)], [truth], "float32", True)[0] == "WRONG"
    assert judged([(1.0, 2.0)], [truth], "float32", True)[0] == "exact"


def test_the_peers_are_imported_by_no_one_who_does_not_ask():
    code = """
import sys
from benchmarks.settings import Settings
Settings(small=True, workers=1, threads=1, patience=1.0).register()
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "benchmarks.ways" in done.stdout.split()
    assert not {"curvlinops", "backpack", "pyhessian", "hessian_eigenthings", "jax"} & set(done.stdout.split())
