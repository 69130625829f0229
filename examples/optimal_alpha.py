# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The optimal step size of every training step
#
# An optimizer takes a step along a direction $d$. Along that line the loss is a function of one number,
# $h(\alpha) = L(\theta + \alpha d)$, and near $\alpha = 0$ it is the quadratic
#
# $$q(\alpha) = L(\theta) + \alpha\, d^\top g + \tfrac12 \alpha^2\, d^\top H d,$$
#
# with $g$ the gradient and $H$ the Hessian. Its minimum is at
#
# $$\alpha^* = -\frac{d^\top g}{d^\top H d}.$$
#
# alpha_func computes it exactly, without forming $H$. This notebook watches $\alpha^*$ while a small network trains: by
# plain SGD, with momentum, and by Adam.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.func import grad

from alpha_func import capture, from_optimizer, functional_loss, grad_and_quadratic, quadratic_along, tree
from alpha_func.optimizers import anatomy

# %% [markdown]
# ## The experiment
#
# A network 10-5-1 with ReLU under the mean squared error; 1000 samples, inputs and targets drawn from a normal
# distribution; batches of 32, 100 epochs: 3200 steps, the last batch of an epoch with 8 samples. The targets have
# nothing to do with the inputs, so all that can be learnt is to predict their mean, and then their noise.
#
# `functional_loss` makes the module a pure function of its parameters, and `capture` a program that is differentiated
# fast and exactly.

# %%
torch.manual_seed(0)
inputs, targets = torch.randn(1000, 10, dtype=torch.float64), torch.randn(1000, 1, dtype=torch.float64)
model = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1)).double()

loss, start = functional_loss(model, nn.MSELoss())
loss = capture(loss)
batches = list(zip(inputs.split(32), targets.split(32), strict=True)) * 100

# %% [markdown]
# ## Plain SGD
#
# The direction is $d = -g$, so $\alpha$ is a learning rate, and $\alpha^*$ the one that this step should have had.

# %%
lr = 0.01
step = grad_and_quadratic(loss)  # the gradient, d = −g, and the quadratic along it

params, alphas, losses = start, [], []
lines = {}  # where h(α) is looked at: step -> (params, d, quadratic)
for i, batch in enumerate(batches):
    grads, d, quadratic = step(params, *batch)
    alphas.append(quadratic.alpha)
    losses.append(quadratic.value)
    if i in (0, 100, 3100):
        lines[i] = params, d, quadratic
    params = tree.axpy(lr, d, params)  # θ + lr·d

sgd = torch.stack(alphas)
sgd_losses = torch.stack(losses)
low, high = sgd.quantile(torch.tensor([0.05, 0.95], dtype=torch.float64))
print(f"median α* {sgd.median():.2f}, nine in ten from {low:.2f} to {high:.2f}")
print(f"first epoch {sgd[:32].median():.2f}, second half {sgd[1600:].median():.2f}")
print(f"curvature not positive: {(sgd < 0).sum()} steps; lr > 2α* > 0: {((sgd > 0) & (lr > 2 * sgd)).sum()} steps")
print(f"mean loss {sgd_losses[:32].mean():.3f} in the first epoch, {sgd_losses[-32:].mean():.3f} in the last")
for i, (params, d, quadratic) in lines.items():
    at_alpha = loss(tree.axpy(quadratic.alpha, d, params), *batches[i])
    print(f"step {i}: loss {quadratic.value:.3f}, at α* {at_alpha:.3f}, predicted {quadratic.minimum:.3f}")


# %%
def plot_alpha(curves):
    """α* of every step, on a log scale, with the running median of an epoch."""
    _, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for k, (name, values) in enumerate(curves.items()):
        medians = values.unfold(0, 32, 1).median(dim=1).values
        axes.semilogy(torch.where(values > 0, values, torch.nan), ".", color=f"C{k}", ms=2, alpha=0.25)
        middle = torch.where(medians > 0, medians, torch.nan)
        axes.semilogy(range(16, 16 + len(middle)), middle, color=f"C{k}", label=name)
    axes.set(xlabel="step", ylabel="α*")
    axes.legend()
    plt.show()


def plot_lines(lines, reach):
    """The loss h(α) beside its quadratic q(α); ▲ the step that is taken, ● the minimum of the quadratic."""
    _, panels = plt.subplots(1, len(lines), figsize=(4 * len(lines), 3.4), layout="constrained")
    for axes, (i, (params, d, quadratic)) in zip(panels, lines.items(), strict=True):
        scale = 2.2 * max(abs(quadratic.alpha.item()), reach)
        alphas = torch.linspace(-0.3 * scale, scale, 101, dtype=torch.float64)
        h = torch.stack([loss(tree.axpy(a, d, params), *batches[i]) for a in alphas])
        axes.plot(alphas, h, label="h(α)")
        axes.plot(alphas, quadratic(alphas), "--", label="q(α)")
        axes.plot(quadratic.alpha, quadratic.minimum, "o", color="C1")
        axes.plot(reach, loss(tree.axpy(reach, d, params), *batches[i]), "k^")
        axes.set(title=f"step {i}: α* = {quadratic.alpha:.3g}", xlabel="α")
    panels[0].legend()
    plt.show()


plot_alpha({"α* of SGD": sgd, "the learning rate": torch.full_like(sgd, lr)})
plot_lines(lines, lr)

# %% [markdown]
# The median α* is 0.54: the learning rate of 0.01 is 54 times smaller than the step that is best for the batch at hand,
# and no step is beyond 2α*, where the quadratic predicts no progress. α* differs from batch to batch, nine in ten from
# 0.31 to 1.92, far more than over the run: its median is 0.40 in the first epoch and 0.52 in the second half.
# In 54 of the 3200 steps the curvature along −g is not positive, and α* no minimum; the plot leaves them out.
#
# The quadratic is no bad guide to the true loss: at the three steps, the loss at α* is 0.886, 0.759 and 0.599, where
# 0.890, 0.788 and 0.630 were predicted: at all three the step to α* gains a little more than the quadratic promises.

# %% [markdown]
# ## Momentum and Adam
#
# `from_optimizer` makes any optimizer of `torch.optim` a pure function of gradients, state and parameters. The
# direction is its step, the learning rate in it, so here $\alpha$ counts steps: $\alpha^* = 1$ is a step that lands on
# the minimum of the quadratic, $\alpha^* = 5$ one that could be five times as long. $\alpha^*$ times lr is a learning
# rate again.


# %%
def observe(direction, watched=(0, 100, 3100)):
    """Train from the same start on the same batches; α* and all that is known of each step."""
    along = quadratic_along(loss)
    gradient = grad(loss)
    params, state, steps, losses, lines = start, direction.init(start), [], [], {}
    for i, batch in enumerate(batches):
        grads = gradient(params, *batch)
        d, after, new_state = direction.step(grads, state, params)
        quadratic = along(params, d, *batch)
        steps.append(anatomy(direction, d, quadratic, grads, state, params))
        losses.append(quadratic.value)
        if i in watched:
            lines[i] = params, d, quadratic
        params, state = after, new_state
    return tree.map(lambda *leaves: torch.stack(leaves), *steps), torch.stack(losses), lines


momentum, momentum_losses, momentum_lines = observe(from_optimizer(torch.optim.SGD, lr=lr, momentum=0.9))
adam, adam_losses, adam_lines = observe(from_optimizer(torch.optim.Adam, lr=lr))

for name, seen, values in (("momentum", momentum, momentum_losses), ("Adam", adam, adam_losses)):
    uphill, beyond = seen.cosine < 0, (seen.alpha_steps > 0) & (seen.alpha_steps < 0.5)
    print(f"{name}: median α* {seen.alpha_steps.median():.1f} steps, as a learning rate {seen.alpha_lr.median():.2f}")
    print(f"  cosine of step and −g {seen.cosine.median():.2f}, uphill in {uphill.double().mean():.1%} of steps")
    print(f"  beyond 2α*: {beyond.sum()} steps")
    print(f"  α* < 0: {(seen.alpha_steps < 0).sum()} steps, of them uphill {(uphill & (seen.alpha_steps < 0)).sum()}")
    print(f"  mean loss of the last epoch {values[-32:].mean():.3f}")

# %%
plot_alpha({"SGD": sgd, "momentum": momentum.alpha_lr, "Adam": adam.alpha_lr})
plot_lines(momentum_lines, 1)
plot_lines(adam_lines, 1)

# %% [markdown]
# The median step with momentum has a cosine of 0.47 with −g: nine tenths of its weight are on earlier batches. α* is
# 20.9 such steps, a learning rate of 0.21. In 7.9 % of the steps the loss of the batch at hand rises along the step
# from the start; in all of these the curvature is positive, and α* behind the step. 14 steps are beyond 2α*.
#
# Adam's median α* is 48.0 steps, about as many as SGD's 54. As a learning rate, 0.48, it does not compare with SGD's: a
# direction of SGD is as long as the gradient, one of Adam has entries of about one size, however small the gradient.
# Adam ends lowest, at a mean loss of 0.918 over the last epoch, against 0.936 with momentum and 0.937 for SGD.
