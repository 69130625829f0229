"""Ways in which a loss can change between two calls: ``CHANGES[name]()`` gives loss, params, batch and the change."""

import collections
import dataclasses
import functools
import types

import torch
from torch import nn
from torch.nn import functional as F

from alpha_func import functional_loss

GLOBAL = 1.0


@dataclasses.dataclass
class Config:
    weight: float = 1.0


class Holder:
    shared = 1.0

    def __init__(self):
        self.weight, self.config, self.weights = 1.0, Config(), [1.0]

    def __call__(self):
        return self.weight

    def method(self):
        return self.weight

    @property
    def doubled(self):
        return 2 * self.weight


def _closure():
    weight = 1.0

    def change():
        nonlocal weight
        weight = 3.0

    return lambda: weight, change


def _closure_of_closure():
    read, change = _closure()
    return lambda: read(), change


def _global():
    def change():
        global GLOBAL
        GLOBAL += 2.0

    return lambda: GLOBAL, change


def _held(make, read, change):
    def build():
        held = make()
        return lambda: read(held), lambda: change(held)

    return build


def _shared():
    kind = type("Kind", (), {"shared": 1.0})
    return lambda: kind.shared, lambda: setattr(kind, "shared", 3.0)


def _inherited():
    base = type("Base", (), {"shared": 1.0})
    kind = type("Kind", (base,), {})
    return lambda: kind().shared, lambda: setattr(kind, "shared", 3.0)


def _replaced_method():
    kind = type("Kind", (), {"read": lambda self: 1.0})
    held = kind()
    return lambda: held.read(), lambda: setattr(kind, "read", lambda self: 3.0)


def _partial():
    options = {"weight": 1.0}
    return functools.partial(lambda options: options["weight"], options), lambda: options.update(weight=3.0)


def _bound():
    held = Holder()
    return held.method, lambda: setattr(held, "weight", 3.0)


def _callable():
    held = Holder()
    return held, lambda: setattr(held, "weight", 3.0)


def _defaults():
    def read(weight=1.0):
        return weight

    return read, lambda: setattr(read, "__defaults__", (3.0,))


def _set(name, value=3.0):
    return lambda held: setattr(held, name, value)


# Where a number may be held: () -> (how it is read, how it is changed)
NUMBERS = {
    "closure": _closure,
    "closure of a closure": _closure_of_closure,
    "global": _global,
    "class attribute": _shared,
    "inherited class attribute": _inherited,
    "method replaced": _replaced_method,
    "partial": _partial,
    "bound method": _bound,
    "callable instance": _callable,
    "default of a function": _defaults,
    "attribute": _held(Holder, lambda h: h.weight, _set("weight")),
    "property": _held(Holder, lambda h: h.doubled, _set("weight")),
    "attribute of an attribute": _held(Holder, lambda h: h.config.weight, lambda h: setattr(h.config, "weight", 3.0)),
    "attribute replaced": _held(Holder, lambda h: h.config.weight, _set("config", Config(3.0))),
    "list in an attribute": _held(Holder, lambda h: h.weights[0], lambda h: h.weights.__setitem__(0, 3.0)),
    "dataclass": _held(Config, lambda c: c.weight, _set("weight")),
    "namespace": _held(lambda: types.SimpleNamespace(w=1.0), lambda n: n.w, _set("w")),
    "list item": _held(lambda: [1.0], lambda v: v[0], lambda v: v.__setitem__(0, 3.0)),
    "list length": _held(lambda: [1.0], lambda v: float(len(v)), lambda v: v.append(1.0)),
    "list order": _held(lambda: [1.0, 3.0], lambda v: v[0], lambda v: v.reverse()),
    "sum of a list": _held(lambda: [1.0, 2.0], sum, lambda v: v.append(3.0)),
    "dict item": _held(lambda: {"w": 1.0}, lambda v: v["w"], lambda v: v.update(w=3.0)),
    "dict key": _held(dict, lambda v: v.get("w", 1.0), lambda v: v.update(w=3.0)),
    "dict of dicts": _held(lambda: {"a": {"w": 1.0}}, lambda v: v["a"]["w"], lambda v: v["a"].update(w=3.0)),
    "set": _held(set, lambda v: 3.0 if 1 in v else 1.0, lambda v: v.add(1)),
    "deque": _held(lambda: collections.deque([1.0]), lambda v: v[-1], lambda v: v.append(3.0)),
    "flag": _held(Holder, lambda h: 3.0 if h.shared == 2.0 else 1.0, _set("shared", 2.0)),
    "string": _held(lambda: {"mode": "a"}, lambda v: {"a": 1.0, "b": 3.0}[v["mode"]], lambda v: v.update(mode="b")),
    "integer": _held(lambda: [1], lambda v: v[0], lambda v: v.__setitem__(0, 3)),
    "tensor in place": _held(lambda: torch.tensor(1.0), lambda v: v, lambda v: v.fill_(3.0)),
    "tensor rebound": _held(lambda: [torch.tensor(1.0)], lambda v: v[0], lambda v: v.__setitem__(0, torch.tensor(3.0))),
}


def _batch():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(4, n, generator=generator, dtype=torch.float64) for n in (3, 2))


def _net():
    torch.manual_seed(0)
    layers = (nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2))
    return nn.Sequential(*layers).double()


def _in_function(build):
    read, change = build()
    return (lambda p, x, y: read() * F.mse_loss(x @ p, y)), torch.ones(3, 2).double(), _batch(), change


def _in_criterion(build):
    read, change = build()
    loss, params = functional_loss(nn.Linear(3, 2).double(), lambda out, y: read() * F.mse_loss(out, y))
    return loss, params, _batch(), change


def _in_forward(build):
    read, change = build()

    class Net(nn.Linear):
        def forward(self, x):
            return read() * super().forward(x)

    loss, params = functional_loss(Net(3, 2).double(), nn.MSELoss())
    return loss, params, _batch(), change


def _in_loss_of(build):
    read, change = build()
    loss, params = functional_loss(_net().eval(), loss_of=lambda net, x, y: (net(x) - read() * y).square().mean())
    return loss, params, _batch(), change


def _of_module(change):
    net = _net()
    loss, params = functional_loss(net, nn.MSELoss())
    return loss, params, _batch(), lambda: change(net)


def _tripled(module, args, out):
    return 3 * out


def _swap(net, at, layer):
    net[at] = layer.double()


# What may change in a module: the net of ``_net``.
MODULES = {
    "eval": lambda net: net.eval(),
    "one layer in eval": lambda net: net[3].eval(),
    "p of dropout": lambda net: setattr(net[3], "p", 0.25),
    "eps of a norm": lambda net: setattr(net[1], "eps", 1.0),
    "momentum of a norm": lambda net: setattr(net[1], "momentum", 0.7),
    "buffer in place": lambda net: net.eval()[1].running_var.mul_(4),
    "buffer rebound": lambda net: setattr(net.eval()[1], "running_mean", torch.ones(4).double()),
    "forward hook": lambda net: net[0].register_forward_hook(_tripled),
    "forward pre-hook": lambda net: net[2].register_forward_pre_hook(lambda m, args: (3 * args[0],)),
    "hook with kwargs": lambda net: net[0].register_forward_hook(lambda m, a, k, out: 3 * out, with_kwargs=True),
    "layer replaced": lambda net: _swap(net, 2, nn.ReLU()),
    "layer made the identity": lambda net: _swap(net, 2, nn.Identity()),
    "layer appended": lambda net: net.append(nn.Tanh()),
    "forward replaced": lambda net: setattr(net[2], "forward", lambda x: 3 * x),
    "frozen bias": lambda net: net[0].bias.requires_grad_(False),
}

CHANGES = {
    **{f"{name} in a function": functools.partial(_in_function, build) for name, build in NUMBERS.items()},
    **{f"{name} in a criterion": functools.partial(_in_criterion, build) for name, build in NUMBERS.items()},
    **{f"{name} in a forward": functools.partial(_in_forward, build) for name, build in NUMBERS.items()},
    **{f"{name} in a loss_of": functools.partial(_in_loss_of, build) for name, build in NUMBERS.items()},
    **{f"module: {name}": functools.partial(_of_module, change) for name, change in MODULES.items()},
}
