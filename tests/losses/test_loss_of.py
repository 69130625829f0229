"""``functional_loss(module, loss_of=...)``: any loss that a function makes of a module and a batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import capture, functional_loss, quadratic_along, tree


class Model(nn.Module):
    """As nanoGPT's: a forward that gives logits and loss; and an encoder that can be called by itself."""

    def __init__(self):
        super().__init__()
        self.encoder, self.drop, self.head = nn.Linear(3, 6), nn.Dropout(0.4), nn.Linear(6, 4)

    def forward(self, x, y=None):
        logits = self.head(self.drop(torch.tanh(self.encoder(x))))
        return logits, None if y is None else F.cross_entropy(logits, y)


critic = nn.Linear(4, 1).double()
LOSSES = {
    "a tuple": lambda model, x, y: model(x, y)[1],
    "a submodule": lambda model, x, y: model.drop(model.encoder(x)).square().mean(),
    "another network": lambda model, x, y: critic(model(x)[0]).sigmoid().mean(),
    "two calls": lambda model, x, y: F.mse_loss(model(x)[0], model(-x)[0]),
}


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_is_the_function_of_the_module(name, captured):
    torch.manual_seed(0)
    model, x, y = Model().double(), torch.randn(5, 3).double(), torch.randint(4, (5,))
    loss, params = functional_loss(model, loss_of=LOSSES[name], seed=7)
    d = tree.randn_like(params, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        value = LOSSES[name](model, x, y)
    live = list(model.parameters())
    grads = torch.autograd.grad(value, live, create_graph=True, materialize_grads=True)
    slope = sum((g * p).sum() for g, p in zip(grads, d.values(), strict=True))
    hd = torch.autograd.grad(slope, live, materialize_grads=True)
    curvature = sum((h * p).sum() for h, p in zip(hd, d.values(), strict=True))
    found = quadratic_along(capture(loss) if captured else loss)(params, d, x, y)
    assert [number.item() for number in found] == pytest.approx([value.item(), slope.item(), curvature.item()], 1e-10)


def test_loss_of_beside_a_criterion_is_refused():
    with pytest.raises(TypeError, match="without a criterion, got a criterion as well"):
        functional_loss(Model(), nn.MSELoss(), loss_of=LOSSES["a tuple"])
    with pytest.raises(TypeError, match=r"callable as loss_of\(module, \*batch\).* got int"):
        functional_loss(Model(), loss_of=3)
