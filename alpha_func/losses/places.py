"""Where the tensors of a module are, and which places hold one and the same."""

from collections.abc import Sequence

from torch import Tensor, nn

Place = tuple[tuple[str, ...], str]  # the names of the modules on the way, and that of the tensor in the last
Ties = tuple[tuple[Place, Place], ...]
Tree = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, "Tree"], ...]]  # of a module: (key, name); (child, its tree)


def place_of(name: str) -> Place:
    """The place of a name with dots."""
    *path, key = name.split(".")
    return tuple(path), key


def part_of(model: nn.Module, path: tuple[str, ...]) -> nn.Module:
    """The module at the end of the way."""
    for name in path:
        found = model._modules.get(name)
        if found is not None:  # a compiled module's ``_orig_mod`` is itself to Dynamo
            model = found
    return model


def tree_of(names: Sequence[str], places: Sequence[Place]) -> Tree:
    """The places of tensors by module, each module once: TorchDynamo takes as long for a step as for an operator.

    >>> tree_of(["a.w", "a.b"], [place_of("a.w"), place_of("a.b")])
    ((), (('a', ((('w', 'a.w'), ('b', 'a.b')), ())),))
    """
    own = tuple((key, name) for name, (path, key) in zip(names, places, strict=True) if not path)
    below: dict[str, list[tuple[str, Place]]] = {}
    for name, (path, key) in zip(names, places, strict=True):
        if path:
            below.setdefault(path[0], []).append((name, (path[1:], key)))
    return own, tuple((child, tree_of(*zip(*found, strict=True))) for child, found in below.items())


def find(module: nn.Module, tree: Tree, found: list[tuple[nn.Module, str, str]]) -> None:
    """Add each tensor's module, its key in that, and its name."""
    own, below = tree
    for key, name in own:
        found.append((module, key, name))
    for child, of_child in below:
        part = module._modules.get(child)
        find(module if part is None else part, of_child, found)


def holder(model: nn.Module, place: Place) -> dict[str, Tensor | None]:
    """The dictionary that holds what is there."""
    part = part_of(model, place[0])
    return part._parameters if place[1] in part._parameters else part._buffers  # type: ignore[return-value]


def parameters_of(model: nn.Module) -> list[Place]:
    """The places of all parameters."""
    return [place_of(name) for name, _ in model.named_parameters(remove_duplicate=False)]


def ties_of(model: nn.Module, known: set[Place]) -> Ties:
    """Of each tensor with several places a known one, with every other."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    places: dict[int, list[Place]] = {}
    for name, tensor in named:
        places.setdefault(id(tensor), []).append(place_of(name))
    first = {key: place for key, found in places.items() for place in reversed(found) if place in known}
    return tuple((first[key], place) for key in first for place in places[key] if place != first[key])


def tie(model: nn.Module, ties: Ties) -> None:
    """Have the other places hold what the known ones do."""
    for place, other in ties:
        holder(model, other)[other[1]] = holder(model, place)[place[1]]


def has_ties(model: nn.Module) -> bool:
    """Whether a tensor has two names; functional_call need not look for ties at every call where there are none."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return len({id(tensor) for _, tensor in named}) < len(named)


def are_as_they_were(model: nn.Module, ties: Ties, kept: tuple[Place, ...]) -> bool:
    """Whether tied places still hold one tensor, and no other parameter has become one that is trained."""
    held = [[holder(model, place)[place[1]] for place in pair] for pair in ties]
    others = [holder(model, place)[place[1]] for place in kept]
    return all(a is b for a, b in held) and not any(each is not None and each.requires_grad for each in others)
