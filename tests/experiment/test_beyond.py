"""The columns that a run has of a step's trust radius, and of its best learning rate and momentum."""

import math

import pytest
import torch

from alpha_func import Quadratic, functional_loss, tree
from alpha_func.experiment.beyond import Beyond
from alpha_func.experiment.data import load
from alpha_func.experiment.minibatches import batches
from alpha_func.experiment.settings import Experiment, network
from alpha_func.experiment.steppers import MeasuredStep
from alpha_func.experiment.training import Training, training_loss
from alpha_func.transforms import lr_and_momentum, taylor_along


def run(experiment, steps, state=None, after=-1):
    """The records of the first steps with the parameters before each, and where the training stands after them."""
    data = load(experiment)
    module = network(experiment, data.inputs.shape[1], data.outputs)
    training = Training(experiment, data, module, experiment.algorithms()[0], training_loss(experiment, data, module))
    if state is not None:
        training.state = state
    records, points = [], []
    for batch in batches(experiment, data, after):
        if batch.step == steps:
            break
        points.append((training.state["params"], batch))
        records.append(training.step(batch).record)
    return records, points, training.state, functional_loss(module, data.criterion)[0]


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_run_records_the_trust_radius_and_the_best_momentum(optimizer):
    experiment = Experiment(optimizers=(optimizer,), epochs=1, dtype="float64", trust_radius=True, best_momentum=True)
    records, points, _, loss = run(experiment, 4)
    assert records[0].more["best_momentum"] == 0
    (last, _), (params, batch), (after, _) = points[1:4]
    x, y = batch.inputs, batch.targets
    step = tree.sub(after, params)
    expected = taylor_along(loss)(params, step, x, y).trust_radius()
    assert math.isclose(records[2].more["trust_radius"], expected, rel_tol=1e-9)
    if optimizer == "momentum":
        d = tree.neg(torch.func.grad(loss)(params, x, y))
        best = lr_and_momentum(loss)(params, d, tree.sub(params, last), x, y)
        assert math.isclose(records[2].more["best_lr"], best.lr, rel_tol=1e-9)
        assert math.isclose(records[2].more["best_momentum"], best.momentum, rel_tol=1e-9)


def test_a_run_that_is_gone_on_with_records_the_same():
    experiment = Experiment(optimizers=("adam",), epochs=1, best_momentum=True)
    whole, *_ = run(experiment, 5)
    _, _, state, _ = run(experiment, 3)
    rest, *_ = run(experiment, 5, state=state, after=2)
    assert [record.more for record in rest] == [record.more for record in whole[3:]]


def test_a_step_of_no_length_has_a_radius_and_no_best_rate():
    experiment = Experiment(trust_radius=True, best_momentum=True)

    def loss(params, x, y):
        return (params * 0).sum()

    params = torch.ones(2)
    step = MeasuredStep(torch.zeros(2), 1.0, Quadratic(*torch.zeros(3)), params, torch.zeros(()), math.nan, 0.0)
    found = Beyond(experiment, experiment.algorithms()[0], loss, loss)(params, step, None, params, params, 0.0)
    assert found["trust_radius"] == math.inf
    assert math.isnan(found["best_lr"])
    assert math.isnan(found["best_momentum"])


def test_a_run_has_no_such_columns_unless_it_is_asked():
    records, *_ = run(Experiment(epochs=1), 1)
    assert not {"trust_radius", "best_lr", "best_momentum"} & records[0].more.keys()
