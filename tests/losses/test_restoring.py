"""A module is what it was after every call, whatever its forward writes to: attributes, hooks, containers, tensors."""

import collections
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from alpha_func import functional_loss, grad_and_quadratic, hvp, quadratic_along, tree
from tests.helpers.reference import flat

Pair = collections.namedtuple("Pair", ("first", "second"))


class Writes(nn.Module):
    """A layer whose forward is followed by a write to what ``held`` made; the write changes the loss of a next call."""

    def __init__(self, held, write, read):
        super().__init__()
        self.layer, self.write, self.read = nn.Linear(3, 3), write, read
        held(self)

    def forward(self, x):
        out = self.layer(x) * (1 + self.read(self))
        self.write(self)
        return out.square().mean()


def sets(name, make):
    return lambda m: setattr(m, name, make())


def hooked(m):
    if not getattr(m, "installed", False):
        m.layer.register_forward_hook(lambda _, args, out: 2 * out)
        m.installed = True


# held: what the module has; written: what its forward does to it; read: a number made of it
WRITES = {
    "hooks, as transformers 5 does": (lambda m: None, hooked, lambda m: 0.0),
    "a pre-hook": (lambda m: None, lambda m: m.layer.register_forward_pre_hook(lambda _, a: (2 * a[0],)), lambda m: 0),
    "a list": (sets("kept", list), lambda m: m.kept.append(1.0), lambda m: sum(m.kept)),
    "a list in a dict": (
        sets("kept", lambda: {"a": [1.0]}),
        lambda m: m.kept["a"].append(1.0),
        lambda m: sum(m.kept["a"]),
    ),
    "a tuple of lists": (sets("kept", lambda: ([1.0], 2)), lambda m: m.kept[0].append(1.0), lambda m: sum(m.kept[0])),
    "a NamedTuple of a list": (
        sets("kept", lambda: Pair([1.0], 2)),
        lambda m: m.kept.first.append(1.0),
        lambda m: sum(m.kept.first),
    ),
    "a dict": (sets("kept", dict), lambda m: m.kept.__setitem__(len(m.kept), 1), lambda m: len(m.kept)),
    "an ordered dict": (
        sets("kept", lambda: collections.OrderedDict(a=1, b=2)),
        lambda m: m.kept.move_to_end("a"),
        lambda m: list(m.kept).index("a"),
    ),
    "a set": (sets("kept", lambda: {0}), lambda m: m.kept.add(len(m.kept)), lambda m: len(m.kept)),
    "a deque": (sets("kept", lambda: collections.deque([1.0], 2)), lambda m: m.kept.append(3.0), lambda m: m.kept[0]),
    "a Counter": (sets("kept", collections.Counter), lambda m: m.kept.update("a"), lambda m: m.kept["a"]),
    "a number": (sets("calls", int), lambda m: setattr(m, "calls", m.calls + 1), lambda m: m.calls),
    "an object": (sets("stats", lambda: SimpleNamespace(n=0)), lambda m: setattr(m.stats, "n", 3), lambda m: m.stats.n),
    "an object's list": (
        sets("stats", lambda: SimpleNamespace(n=[])),
        lambda m: m.stats.n.append(1.0),
        lambda m: sum(m.stats.n),
    ),
    "an unregistered module": (
        sets("parts", lambda: [nn.Linear(1, 1)]),
        lambda m: setattr(m.parts[0], "calls", 1),
        lambda m: getattr(m.parts[0], "calls", 0),
    ),
    "a plain tensor": (sets("count", lambda: torch.zeros(())), lambda m: m.count.add_(1), lambda m: m.count.clone()),
    "a tensor in a list": (
        sets("kept", lambda: [torch.zeros(())]),
        lambda m: m.kept[0].add_(1),
        lambda m: m.kept[0].clone(),
    ),
    "a buffer": (
        lambda m: m.register_buffer("count", torch.zeros(())),
        lambda m: m.count.add_(1),
        lambda m: m.count.clone(),
    ),
    "an attribute of its own making": (
        lambda m: None,
        lambda m: setattr(m, "late", 1.0),
        lambda m: getattr(m, "late", 0.0),
    ),
    "an attribute that it deletes": (
        sets("first", lambda: 1.0),
        lambda m: m.__dict__.pop("first", None),
        lambda m: getattr(m, "first", 0.0),
    ),
    "its mode": (lambda m: None, lambda m: m.train(not m.training), lambda m: float(m.training)),
    "a generator of its own": (
        sets("generator", lambda: torch.Generator().manual_seed(3)),
        lambda m: None,
        lambda m: torch.rand((), generator=m.generator),
    ),
}


def contents(value, depth=0):
    """All that a module holds, as something that can be compared."""
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, torch.Tensor):
        return id(value), value.tolist()
    if isinstance(value, dict):
        return [(key, contents(item, depth + 1)) for key, item in value.items()]
    if isinstance(value, list | tuple | collections.deque | set):
        return [contents(item, depth + 1) for item in value]
    if (hasattr(value, "__dict__") and not callable(value)) or isinstance(value, nn.Module):
        return id(value), contents(vars(value), depth + 1)
    return value


@pytest.mark.parametrize("name", WRITES)
def test_a_forward_that_writes_to(name):
    torch.manual_seed(0)
    module, x = Writes(*WRITES[name]).double(), torch.randn(4, 3).double()
    before = contents(module)
    loss, params = functional_loss(module)
    d = tree.map(torch.ones_like, params)
    values = [loss(params, x) for _ in range(3)]
    lines = [quadratic_along(loss)(params, d, x) for _ in range(2)]
    hvp(loss)(params, d, x)
    grad_and_quadratic(loss)(params, x)
    assert contents(module) == before
    assert len({float(value) for value in values}) == 1
    assert torch.equal(flat(lines[0]), flat(lines[1]))
    assert torch.equal(lines[0].value, values[0])


def test_a_criterion_that_counts_its_calls_is_left_as_it_was():
    class Annealed:
        def __init__(self):
            self.calls, self.history = 0, []

        def __call__(self, outputs, targets):
            self.calls += 1
            self.history.append(float(outputs.detach().sum()))
            return self.calls * (outputs - targets).square().mean()

    criterion, x = Annealed(), torch.ones(2, 3)
    loss, params = functional_loss(nn.Linear(3, 3), criterion)
    assert float(loss(params, x, x)) == float(loss(params, x, x))
    assert (criterion.calls, criterion.history) == (0, [])


def test_a_forward_that_raises_leaves_the_module_as_it_was():
    def fails(m):
        m.kept.append(1)
        raise ZeroDivisionError

    module = Writes(sets("kept", list), fails, lambda m: 0)
    loss, params = functional_loss(module)
    with pytest.raises(ZeroDivisionError):
        loss(params, torch.ones(2, 3))
    assert module.kept == []
    assert dict(module.named_parameters())["layer.weight"] is module.layer.weight


def test_what_did_not_change_is_not_touched():
    class Watched(dict):
        def clear(self):
            raise AssertionError

        update = clear

    module = nn.Linear(3, 3)
    module.settings = Watched(a=1)
    loss, params = functional_loss(module, nn.MSELoss())
    loss(params, torch.ones(2, 3), torch.ones(2, 3))
    assert module.settings == {"a": 1}
