"""The losses of the models in JAX, on the parameters of the PyTorch modules by their names, same weights and batch.

Written in primitives for which jax.experimental.jet has rules (no reduce_window, no scan, no jax.nn.relu).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def array(tensor):
    """A tensor as a JAX array."""
    return jnp.asarray(np.asarray(tensor.detach().cpu()))


def linear(p, name, x):
    """xWᵀ + b."""
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def cross_entropy(logits, classes):
    """The mean of −log softmax at the classes."""
    picked = jnp.take_along_axis(logits, classes[:, None], 1)[:, 0]
    return (jax.nn.logsumexp(logits, axis=-1) - picked).mean()


def standardised(x, axes):
    """Zero mean and unit variance over the axes, as LayerNorm and train-mode BatchNorm have them."""
    centred = x - x.mean(axes, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(axes, keepdims=True) + 1e-5)


def layer_norm(p, name, x):
    """Over the last axis."""
    return standardised(x, (-1,)) * p[f"{name}.weight"] + p[f"{name}.bias"]


def batch_norm(p, name, x):
    """Train mode, over all but the channels (axis 1)."""
    return standardised(x, (0, 2, 3)) * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]


def conv2d(p, name, x):
    """3 × 3, the size kept."""
    y = jax.lax.conv_general_dilated(x, p[f"{name}.weight"], (1, 1), "SAME")
    return y + p[f"{name}.bias"][:, None, None] if f"{name}.bias" in p else y


def layers(p):
    """The indices of the layers of an nn.Sequential that have weights."""
    return sorted({int(name.split(".")[0]) for name in p})


def hidden(p, x, activation):
    """All linear layers, the activation between them."""
    *inner, last = layers(p)
    for i in inner:
        x = activation(linear(p, str(i), x))
    return linear(p, str(last), x)


def mlp_relu(p, x, y):
    """ReLU and mean squared error."""
    return ((hidden(p, x, partial(jnp.maximum, 0.0)) - y) ** 2).mean()


def mlp_tanh(p, x, y):
    """Tanh and cross entropy."""
    return cross_entropy(hidden(p, x, jnp.tanh), y)


def gelu(x):
    """By the error function."""
    return jax.nn.gelu(x, approximate=False)


def mlp_layer_norm(p, x, y):
    """(Linear, LayerNorm, GELU) × 3, Linear."""
    for i in (0, 3, 6):
        x = gelu(layer_norm(p, str(i + 1), linear(p, str(i), x)))
    return cross_entropy(linear(p, "9", x), y)


def conv(p, x, y):
    """(conv, ReLU, max-pool) for each convolution, then linear."""
    *inner, last = layers(p)
    for i in inner:
        x = jnp.maximum(conv2d(p, str(i), x), 0.0)
        n, c, h, w = x.shape
        x = x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))
    return cross_entropy(linear(p, str(last), x.reshape(len(x), -1)), y)


def resnet(p, x, y):
    """Stem, two residual blocks, mean, linear."""
    x = jax.nn.silu(batch_norm(p, "1", conv2d(p, "0", x)))
    for block in ("3.body", "4.body"):
        z = jax.nn.silu(batch_norm(p, f"{block}.1", conv2d(p, f"{block}.0", x)))
        x = jax.nn.silu(x + batch_norm(p, f"{block}.4", conv2d(p, f"{block}.3", z)))
    return cross_entropy(linear(p, "7", x.mean((2, 3))), y)


def gpt(heads, p, tokens, y):
    """Pre-LN blocks with causal softmax attention."""
    b, t = tokens.shape
    x = p["tokens.weight"][tokens] + p["positions.weight"][:t]
    c = x.shape[-1]
    for i in range(len({name.split(".")[1] for name in p if name.startswith("blocks.")})):
        block = f"blocks.{i}"
        qkv = linear(p, f"{block}.qkv", layer_norm(p, f"{block}.norm1", x))
        q, k, v = (a.reshape(b, t, heads, c // heads).swapaxes(1, 2) for a in jnp.split(qkv, 3, -1))
        scores = jnp.where(np.tri(t, dtype=bool), (q @ k.swapaxes(-2, -1)) * (c // heads) ** -0.5, -jnp.inf)
        attended = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(b, t, c)
        x = x + linear(p, f"{block}.out", attended)
        x = x + linear(p, f"{block}.down", gelu(linear(p, f"{block}.up", layer_norm(p, f"{block}.norm2", x))))
    return cross_entropy(linear(p, "head", layer_norm(p, "norm", x)).reshape(b * t, -1), y.reshape(-1))


gpt2, gpt4 = partial(gpt, 2), partial(gpt, 4)


def lstm(p, x, y):
    """One layer, its last output; the steps a lax.scan."""
    w, u = p["lstm.weight_ih_l0"], p["lstm.weight_hh_l0"]
    bias = p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]

    def step(carry, projected):
        h, c = carry
        i, f, g, o = jnp.split(projected + h @ u.T, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zeros = jnp.zeros((len(x), u.shape[1]), x.dtype)
    (h, _), _ = jax.lax.scan(step, (zeros, zeros), (x @ w.T + bias).swapaxes(0, 1))
    return cross_entropy(linear(p, "head", h), y)
