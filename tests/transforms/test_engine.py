"""One engine behind the verbs: what a loss brings answers them, and they ask nothing about its type."""

import subprocess
import sys

import torch

from alpha_func import Quadratic, capture, grad_and_quadratic, hvp, optimal_alpha, quadratic_along
from alpha_func.data_sets import microbatched
from alpha_func.losses.module_loss import LossOfLoss
from alpha_func.transforms import STRATEGIES, forward_over_forward
from alpha_func.transforms.engine import Uncaptured, engine_of
from alpha_func.transforms.strategies import Step
from alpha_func.transforms.validation import resolve_strategy


def cubes(x, y):
    return ((x - y) ** 3).mean()


POINT = torch.tensor([1.0, 2.0], dtype=torch.float64)
BATCH = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]], dtype=torch.float64)


class Parabola(LossOfLoss):
    """A loss whose engine knows its numbers."""

    def __call__(self, params):
        return 1 - 2 * params + 2 * params**2

    def engine(self, strategy):
        return self

    def quadratic(self, params, direction, args, kwargs):
        return Quadratic(*torch.tensor([1.0, -2.0, 4.0]))

    def product(self, params, direction, args, kwargs):
        return 4 * direction

    def step(self, params, direction, args, kwargs):
        grads = torch.ones_like(params)
        return Step(grads, direction(grads), self.quadratic(params, None, args, kwargs))


def test_the_verbs_are_answered_by_the_engine_that_a_loss_brings():
    loss, d = Parabola(), torch.ones_like(POINT)
    assert quadratic_along(loss)(POINT, d).curvature == 4
    assert optimal_alpha(loss)(POINT, d) == 0.5
    assert torch.equal(hvp(loss)(POINT, d), 4 * d)
    assert torch.equal(grad_and_quadratic(loss, lambda g: 3 * g)(POINT).direction, 3 * d)


def test_uncaptured_captured_and_chunked_give_the_same_answers():
    d = torch.tensor([0.3, -0.7], dtype=torch.float64)
    engines = [engine_of(loss, None) for loss in (cubes, capture(cubes), microbatched(cubes, 2))]
    for one in engines[1:]:
        torch.testing.assert_close(one.quadratic(POINT, d, (BATCH,), {}), engines[0].quadratic(POINT, d, (BATCH,), {}))
        torch.testing.assert_close(one.product(POINT, d, (BATCH,), {}), engines[0].product(POINT, d, (BATCH,), {}))
        torch.testing.assert_close(
            one.step(POINT, torch.neg, (BATCH,), {}), engines[0].step(POINT, torch.neg, (BATCH,), {})
        )


def test_a_strategy_of_the_callers_own_gives_hd_and_a_step_too():
    def own(loss, params, direction):
        return forward_over_forward(loss, params, direction)

    d = torch.tensor([0.3, -0.7], dtype=torch.float64)
    named, mine = (Uncaptured(cubes, strategy) for strategy in ("reverse_over_reverse", own))
    torch.testing.assert_close(mine.product(POINT, d, (BATCH,), {}), named.product(POINT, d, (BATCH,), {}))
    torch.testing.assert_close(mine.step(POINT, torch.neg, (BATCH,), {}), named.step(POINT, torch.neg, (BATCH,), {}))
    assert not resolve_strategy(own).is_known


def test_a_strategy_is_known_by_name_and_by_function():
    for name, strategy in STRATEGIES.items():
        assert resolve_strategy(name) is resolve_strategy(strategy) is resolve_strategy(strategy.function) is strategy
        assert strategy.name == name


def test_transforms_import_neither_capture_nor_data_sets():
    script = (
        "import sys, types; package = types.ModuleType('alpha_func'); package.__path__ = ['alpha_func']; "
        "sys.modules['alpha_func'] = package; import alpha_func.transforms.verbs; "
        "print([m for m in sys.modules if m.startswith(('alpha_func.capture', 'alpha_func.data_sets'))])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
