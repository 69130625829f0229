"""Losses called from several threads at once give what they give alone, and leave everything as it was."""

import sys
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, hvp, quadratic_along, tree
from alpha_func.losses.draws import draws_replayed, rng_state
from tests.helpers.reference import flat

THREADS = 4


def in_threads(work):
    """The results of ``work(i)``, run in threads that begin together."""
    together, results = threading.Barrier(THREADS), [None] * THREADS

    def run(i):
        together.wait()
        try:
            results[i] = work(i)
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results


def settings():
    return (
        torch.get_rng_state().tolist(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
    )


MODULES = {
    "dropout": lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2)),
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)),
    "attention": lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
}
VERBS = {
    "the loss": lambda loss, p, d, *batch: loss(p, *batch),
    "quadratic_along": lambda loss, p, d, *batch: quadratic_along(loss)(p, d, *batch),
    "hvp": lambda loss, p, d, *batch: hvp(loss)(p, d, *batch),
    "grad_and_quadratic": lambda loss, p, d, *batch: grad_and_quadratic(loss)(p, *batch),
}


@pytest.mark.parametrize("shared", [True, False], ids=["one module", "a module each"])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", MODULES)
def test_threads_give_the_numbers_of_one(name, verb, shared):
    torch.manual_seed(0)
    modules = [MODULES[name]()] * THREADS if shared else [MODULES[name]() for _ in range(THREADS)]
    losses = [functional_loss(module, nn.MSELoss(), seed=i) for i, module in enumerate(modules)]
    width, out = (4, 4) if name == "attention" else (3, 2)
    x, y = torch.randn(6, 5, width)[:, 0 if name != "attention" else slice(None)], torch.randn(6, 5, out)
    y = y if name == "attention" else y[:, 0]
    own = [id(p) for module in modules for p in module.parameters()]

    def work(i):
        loss, params = losses[i]
        d = tree.map(torch.ones_like, params)
        return [flat(VERBS[verb](loss, params, d, x, y)) for _ in range(3)]

    alone = [work(i) for i in range(THREADS)]
    before = settings()
    together = in_threads(work)
    assert torch.equal(flat(alone), flat(together))
    assert settings() == before
    assert [id(p) for module in modules for p in module.parameters()] == own


@pytest.mark.parametrize("name", MODULES)
def test_threads_share_the_first_calls_of_a_captured_loss(name):
    torch.manual_seed(0)
    module, width = MODULES[name](), 4 if name == "attention" else 3
    loss, params = functional_loss(module, lambda out, y: F.mse_loss(out, y.expand_as(out)))
    x, y, d = torch.randn(6, width), torch.ones(()), tree.map(torch.ones_like, params)
    own = [id(p) for p in module.parameters()]
    captured, before, interval = capture(loss, strict=True), settings(), sys.getswitchinterval()
    ways = [captured, loss, captured, capture(loss)]
    sys.setswitchinterval(1e-5)
    try:
        together = in_threads(lambda i: flat([quadratic_along(ways[i])(params, d, x, y) for _ in range(3)]))
    finally:
        sys.setswitchinterval(interval)
    expected = flat([quadratic_along(loss)(params, d, x, y)] * 3)
    for found in together:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert captured.captured == 1
    assert settings() == before
    assert [id(p) for p in module.parameters()] == own


def test_draws_are_replayed_in_the_thread_that_asks_alone():
    loss, params = functional_loss(MODULES["dropout"](), nn.MSELoss())
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    states = []
    for seed in range(THREADS):
        torch.manual_seed(seed)
        states.append(rng_state())

    def work(i):
        with draws_replayed(states[i] if i else None):
            return [float(loss(params, x, y)) for _ in range(5)]

    alone = [work(i) for i in range(THREADS)]
    assert in_threads(work) == alone
    assert len({value for values in alone for value in values}) == THREADS
