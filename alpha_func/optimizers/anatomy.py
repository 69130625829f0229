"""What an optimizer's step is made of: α* in its two units, its angle to −g, and the part that weight decay has in it.

d   the step, α = 1     g   the gradient     d₀   the step from the same state with weight_decay=0
"""

from typing import NamedTuple

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.optimizers.pure import Direction, State
from alpha_func.quadratic import Quadratic
from alpha_func.tree import Tree


class Anatomy(NamedTuple):
    """What describes a step besides its quadratic; 0-d tensors.

    Attributes:
        alpha_steps: α*, in steps of the optimizer: 1 is the step itself.
        alpha_lr: α*·lr, the learning rate whose step would land on the minimum of the quadratic; NaN where the step is
            not proportional to lr (Adafactor, ASGD, Rprop).
        cosine: −dᵀg / (‖d‖‖g‖), of the angle between d and −g.
        weight_decay_share: (d − d₀)ᵀg / dᵀg, the part of the slope that is weight decay's; 0 without weight decay.
    """

    alpha_steps: Tensor
    alpha_lr: Tensor
    cosine: Tensor
    weight_decay_share: Tensor


def anatomy(direction: Direction, d: Tree, quadratic: Quadratic, grads: Tree, state: State, params: Tree) -> Anatomy:
    """The anatomy of the step d = ``direction.update(grads, state, params)[0]``, whose quadratic is known.

    Args:
        direction: from ``from_optimizer`` or ``from_live_optimizer``.
        d: its step.
        quadratic: of the loss along d.
        grads, state, params: what d was computed from.

    Returns:
        An ``Anatomy``. A few inner products, and with weight decay one more step of the optimizer.

    >>> import torch
    >>> from alpha_func import from_optimizer, grad_and_quadratic
    >>> direction, params = from_optimizer(torch.optim.SGD, lr=0.1, weight_decay=0.5), torch.tensor([1.0, 2.0])
    >>> state = direction.init(params)
    >>> step = grad_and_quadratic(lambda x: (x**2).sum(), lambda grads: direction.update(grads, state, params)[0])
    >>> g, d, quadratic = step(params)
    >>> anatomy(direction, d, quadratic, g, state, params)  # d = −0.1 (g + 0.5 θ) = −0.125 g
    Anatomy(alpha_steps=tensor(4.), alpha_lr=tensor(0.4000), cosine=tensor(1.), weight_decay_share=tensor(0.2000))
    """
    return Anatomy(
        alpha_steps=quadratic.alpha,
        alpha_lr=quadratic.alpha * direction.learning_rate,
        cosine=cosine(d, grads),
        weight_decay_share=weight_decay_share(direction, d, grads, state, params),
    )


def cosine(d: Tree, grads: Tree) -> Tensor:
    """−dᵀg / (‖d‖‖g‖), the cosine of the angle between d and −g; NaN where either is zero.

    >>> cosine(torch.tensor([-3.0, 0.0]), torch.tensor([3.0, 4.0]))
    tensor(0.6000)
    """
    return -tree.vdot(d, grads) / (tree.norm(d) * tree.norm(grads))


def weight_decay_share(direction: Direction, d: Tree, grads: Tree, state: State, params: Tree) -> Tensor:
    """(d − d₀)ᵀg / dᵀg, with d₀ the step from the same state with weight_decay=0.

    It is 0, exactly and for nothing, where no group has a weight decay. Both steps are the optimizer's own in the dtype
    of the parameters: what rounding took from a step is in neither.
    """
    if not direction.decays_weights:
        return torch.zeros_like(tree.vdot(d, grads))
    undecayed, _ = direction.without_weight_decay().update(grads, state, params)
    return tree.vdot(tree.sub(d, undecayed), grads) / tree.vdot(d, grads)
