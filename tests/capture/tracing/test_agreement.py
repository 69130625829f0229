"""A program whose value is not the loss's own is refused at the first call; roundings are told apart from that."""

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from alpha_func import capture, functional_loss, grad_and_quadratic, quadratic_along
from alpha_func.capture import program as programs
from alpha_func.capture.tracing import agreement, lowering, tracing
from alpha_func.capture.tracing.roundings import disturbed
from alpha_func.errors import CaptureError
from tests.helpers.cases import MODULES
from tests.helpers.exactness_table import CASES, captured
from tests.helpers.whole import a_third_of

DTYPES = torch.bfloat16, torch.float16, torch.float32, torch.float64
X = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(3, 4)


def twice_unless_traced(x):
    """A loss that is another one to whoever traces it."""
    return (1 if torch.compiler.is_compiling() else 2) * x.square().sum()


def test_a_loss_that_differs_from_its_program_is_refused_with_both_values():
    with pytest.raises(CaptureError, match=r"program's value is 13\.6363636, .*own is 27\.2727273, .*call to call"):
        capture(twice_unless_traced)(X)


@pytest.mark.parametrize(
    "call",
    [
        lambda loss: quadratic_along(loss)(X, X),
        lambda loss: grad_and_quadratic(loss)(X),
        lambda loss: torch.func.grad(loss)(X),
        lambda loss: torch.func.vmap(loss)(X[None]),
        lambda loss: torch.func.jvp(loss, (X,), (X,)),
        lambda loss: torch.func.vmap(torch.func.grad(loss))(X[None]),
        lambda loss: loss(X.clone().requires_grad_()),
    ],
    ids=["quadratic", "step", "grad", "vmap", "jvp", "vmap_grad", "autograd"],
)
def test_it_is_refused_under_every_transform_and_again_at_the_next_call(call):
    loss = capture(twice_unless_traced)
    for _ in range(2):
        with pytest.raises(CaptureError, match="changes from call to call"):
            call(loss)


def test_an_operator_lowered_to_another_value_is_refused(monkeypatch):
    operator = torch.ops.aten.multilabel_margin_loss_forward.default
    wrong = {**lowering.decompositions(), operator: torch._decomp.decomposition_table[operator]}
    monkeypatch.setattr(tracing, "decompositions", lambda: wrong)
    labels = torch.tensor([[1, -1, 0, 0], [-1, 2, 2, 0], [2, 0, -1, 3]])
    with pytest.raises(CaptureError, match="lowered wrongly"):
        capture(lambda x, y: F.multilabel_margin_loss(x, y))(X, labels)


def test_a_program_is_checked_once(monkeypatch):
    checked = []
    monkeypatch.setattr(programs, "require_agreement", lambda *_: checked.append(1))
    captured = capture(lambda x: x.square().sum())
    for x in (X, X + 1, X[:2], X):
        captured(x)
    assert len(checked) == captured.captured == 2


@pytest.mark.parametrize("name", a_third_of([name for name in CASES if "margin_loss" not in name]))  # no half precision
def test_no_case_in_bfloat16_is_refused_for_its_roundings(name):
    loss, case = captured(name, torch.bfloat16, "eager")
    loss(case.params, *case.args)


class Deep(nn.Module):
    """Forty layers, each a product, a norm and an attention over the batch."""

    def __init__(self, depth=40, width=64):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms, strict=True):
            y = norm(x)
            x = x + F.gelu(layer(F.scaled_dot_product_attention(y, y, y)))
        return x


@pytest.mark.parametrize(("dtype", "seed"), a_third_of(DTYPES, range(3), every=6), ids=str)
def test_a_deep_net_is_not_refused_for_its_roundings(dtype, seed):
    torch.manual_seed(seed)
    loss, params = functional_loss(Deep().to(dtype), lambda y, t: (y - t).sum())  # a sum that cancels
    x = torch.randn(2, 16, 64, dtype=dtype)
    capture(loss)(params, x, torch.randn_like(x))


def unrounded(x):
    """Zero but for roundings, which a program may make otherwise."""
    return (x * 1e6).square().sum() - 1e12 * x.square().sum()


def normal(dtype):
    return torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_a_cancellation_in_float16_is_not_refused():
    x = normal(torch.float16)

    def loss(x):
        return (x * 3).sum() - 3 * x.sum()

    assert abs(capture(loss)(x) - loss(x)) <= 1e-2 * x.abs().sum()


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype is not torch.float16], ids=str)
def test_a_loss_near_zero_by_cancellation_is_not_refused(dtype, monkeypatch):
    x = normal(dtype)
    program = capture(unrounded).program(x).graph
    monkeypatch.setattr(agreement, "_near", lambda *_: False)  # its value and the loss's are the same to the last bit
    spread = agreement.spread_of(program, None, [x], program(x))
    assert spread > 1e12 * torch.finfo(dtype).eps


def test_a_real_difference_is_refused_where_roundings_are_large():
    def loss(x):
        return unrounded(x) + (0 if torch.compiler.is_compiling() else 1e9)

    with pytest.raises(CaptureError, match="program's value"):
        capture(loss)(X.float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_equal_themselves(value):
    got = capture(lambda x, scale: (x * scale).sum())(X.abs(), torch.tensor(value))
    assert not got.isfinite()


def test_a_nan_in_one_alone_is_refused():
    def loss(x):
        return x.sum() * (1.0 if torch.compiler.is_compiling() else float("nan"))

    with pytest.raises(CaptureError, match="own is nan"):
        capture(loss)(X)


def test_the_check_changes_nothing():
    case = MODULES["batch_norm_train"]()
    before, rng = {k: v.clone() for k, v in case.loss.model.state_dict().items()}, torch.get_rng_state()
    capture(case.loss)(case.params, *case.args)
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in case.loss.model.state_dict().items())


def test_an_example_of_a_batch_of_none_is_no_example():
    loss = capture(lambda x: x.square().sum())
    assert torch.func.vmap(loss)(X[:0]).shape == (0,)


def test_dropout_is_checked_with_its_mask():
    torch.manual_seed(0)
    loss, params = functional_loss(nn.TransformerEncoderLayer(4, 2, 6).double(), nn.MSELoss(), seed=3)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    assert capture(loss)(params, x, 0 * x) == pytest.approx(float(loss(params, x, 0 * x)), rel=1e-14)


@pytest.mark.parametrize("compared", [torch.eq, torch.ne])
def test_what_is_tied_stays_tied_under_roundings(compared):
    program = make_fx(lambda x: compared(x, x.amax()[None]).sum())(X)
    assert {int(run(X)) for run in disturbed(program, 5, 16)} == {int(program(X))}
