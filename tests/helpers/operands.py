"""Operands of every kind that a rule must not take for generic ones, as functions of a few parameters."""

import inspect

import torch


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w": (2, 3), "column": (2, 1), "row": (1, 3), "scalar": (), "tall": (3, 2), "wide": (2, 6)}
    values = {name: torch.randn(s, generator=generator, dtype=torch.float64) for name, s in shapes.items()}
    values["zeros"] = torch.zeros(2, 3, dtype=torch.float64)
    values["ones"] = torch.ones(2, 3, dtype=torch.float64)
    values["image"] = torch.randn(1, 2, 2, 3, generator=generator, dtype=torch.float64)
    values["image"] = values["image"].contiguous(memory_format=torch.channels_last)
    return values


# name: the operand, of the parameters.
KINDS = {
    "generic": lambda p: p["w"],
    "expanded": lambda p: p["column"].expand(2, 3),
    "expanded_row": lambda p: p["row"].expand(2, 3),
    "size_one": lambda p: p["row"],
    "scalar": lambda p: p["scalar"],
    "scalar_expanded": lambda p: p["scalar"].expand(2, 3),
    "transposed": lambda p: p["tall"].mT,
    "strided": lambda p: p["wide"][:, ::2],
    "channels_last": lambda p: p["image"],
    "zeros": lambda p: p["zeros"],
    "ones": lambda p: p["ones"],
    "tied": lambda p: p["ones"] * p["scalar"],
    "constant": lambda p: torch.full((2, 3), 0.7, dtype=torch.float64) + p["w"] * 0,
}

# name: both operands.
PAIRS = {
    "generic": lambda p: (p["w"], p["tall"].mT),
    "same": lambda p: (p["w"], p["w"]),
    "two_expanded": lambda p: (p["column"].expand(2, 3), p["column"].expand(2, 3)),
    "expanded_across": lambda p: (p["column"].expand(2, 3), p["row"].expand(2, 3)),
    "column_and_row": lambda p: (p["column"], p["row"]),
    "scalar_and_tensor": lambda p: (p["scalar"], p["w"]),
    "tensor_and_scalar": lambda p: (p["w"], p["scalar"]),
    "more_dimensions": lambda p: (p["image"], p["w"]),
    "fewer_dimensions": lambda p: (p["w"], p["image"]),
    "zeros": lambda p: (p["zeros"], p["w"]),
    "ties": lambda p: (p["ones"], p["ones"].clone()),
    "number": lambda p: (p["w"], 0.5),
    "full": lambda p: (p["w"], torch.full((2, 3), 2.0, dtype=torch.float64)),
    "full_expanded": lambda p: (p["column"].expand(2, 3), torch.ones(2, 3, dtype=torch.float64)),
    "stopped": lambda p: (p["w"], p["w"].detach()),
}


def loss_of(function, operands):
    """Σ c·f(x) + ½ Σ f(x)² over the operands x, of θ + θ²/7, so that f is bent from within and from without."""

    def loss(params):
        bent = {name: leaf + leaf * leaf / 7 for name, leaf in params.items()}
        total = 0
        for i, operand in enumerate(operands.values()):
            x = operand(bent)
            out = function(*x) if isinstance(x, tuple) else function(x)
            c = torch.cos(torch.arange(out.numel(), dtype=out.dtype) + i + 1).reshape(out.shape)
            total = total + (c * out).sum() + out.square().sum() / 2
        return total

    return loss


def restrided(params):
    """The same values in other strides."""

    def laid_out(t):
        return t.mT.contiguous().mT if t.ndim > 1 else t.expand(2, *t.shape)[0]

    return {name: laid_out(leaf) for name, leaf in params.items()}


def is_of_two(function):
    """Whether a function is of two operands."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # torch's own, of one
        return False
    return sum(p.default is p.empty for p in parameters) == 2
