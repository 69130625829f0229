"""An observed model is copied, saved, scripted and compiled as one that is not; and no observer ends a training."""

import copy
import gc
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from alpha_func import Observer, functional_loss, quadratic_along
from alpha_func.errors import ImpureLossError, ObserverError
from alpha_func.torch_private import GLOBAL_HOOKS
from alpha_func.transforms.strategies import STRATEGIES
from tests.observer.test_agreement import MSE, mlp, run


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "torch.save": saved,
    "AveragedModel": lambda net: torch.optim.swa_utils.AveragedModel(net).module,
    "jit.script": torch.jit.script,
    "jit.trace": lambda net: torch.jit.trace(net, torch.randn(8, 4), check_trace=False),
    "compile": lambda net: torch.compile(net, fullgraph=True, backend="eager"),
    "a compiled function": lambda net: torch.compile(lambda x: net(x), fullgraph=True, backend="eager"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("how", COPIES)
def test_an_observed_model_is_copied_as_one_that_is_not(how):
    net = mlp()
    hooks = [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in net.modules()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    observer = Observer(net, MSE, optimizer)
    for _ in range(2):
        x, y = torch.randn(8, 4), torch.randn(8, 3)
        made = COPIES[how](net)
        assert torch.equal(made(x), net(x))
        optimizer.zero_grad()
        MSE(net(x), y).backward()
        observer.batch(x, y)
        optimizer.step()
        assert observer.last.agrees
    assert [len(part._forward_pre_hooks) + len(part._forward_hooks) for part in net.modules()] == hooks
    copy.deepcopy(optimizer)


@pytest.mark.filterwarnings("ignore:Using `torch.compile")  # of observers of other tests that are not collected yet
def test_a_training_step_that_is_compiled_is_measured():
    def run(compiled, observed):
        torch.manual_seed(0)
        net, criterion = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double(), nn.MSELoss()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        observer = Observer(net, criterion, optimizer) if observed else None
        x, y, records = torch.randn(8, 4).double(), torch.randn(8, 2).double(), []

        def step():
            optimizer.zero_grad()
            criterion(net(x), y).backward()
            if observer is not None:
                observer.batch(x, y)
            optimizer.step()

        step = torch.compile(step, backend="eager") if compiled else step
        for _ in range(2):
            step()
            assert torch.is_grad_enabled()
            records.append(observer and (observer.last.alpha_steps, observer.last.agrees))
        return list(net.parameters()), records

    (trained, records), (_, expected), (alone, _) = run(True, True), run(False, True), run(True, False)
    assert records == expected
    assert all(torch.equal(a, b) for a, b in zip(trained, alone, strict=True))


def test_an_observer_may_be_collected_while_a_model_is_compiled():
    net = nn.Linear(3, 2)
    abandoned = [Observer(net, nn.MSELoss(), torch.optim.SGD(net.parameters(), lr=0.1))]

    def backend(graph, inputs):
        abandoned.clear()
        gc.collect()
        return graph.forward

    x = torch.ones(4, 3)
    assert torch.equal(torch.compile(net, backend=backend)(x), net(x))
    assert not any(GLOBAL_HOOKS)


def test_a_compiled_model_is_trained_under_an_observer():
    net = mlp(nn.BatchNorm1d(8))
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    records = []
    with Observer(compiled, MSE, optimizer, log=records.append) as observer:
        for _ in range(3):
            x, y = torch.randn(8, 4), torch.randn(8, 3)
            optimizer.zero_grad()
            MSE(compiled(x), y).backward()
            observer.batch(x, y)
            optimizer.step()
    assert [record.agrees for record in records] == [True] * 3


class PartlyCompiled(nn.Module):
    def __init__(self, backend):
        super().__init__()
        self.net = torch.compile(mlp(), backend=backend)

    def forward(self, x):
        return self.net(x)


def test_a_part_that_is_compiled_stays_so():
    graphs = []

    def backend(graph, inputs):
        graphs.append(len(graphs))
        return lambda *args: graphs.append("run") or graph.forward(*args)

    net, x, y = PartlyCompiled(backend), torch.randn(8, 4), torch.randn(8, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Observer(net, MSE, optimizer, every=2) as observer:
        for _ in range(12):
            optimizer.zero_grad()
            MSE(net(x), y).backward()
            observer.batch(x, y)
            optimizer.step()
    assert graphs.count("run") == 12
    assert len(graphs) - 12 <= 2  # with the hook of a step that is measured, and without


def test_a_look_at_a_compiled_module_leaves_every_other_compiled():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    loss, params = functional_loss(torch.compile(mlp(), backend=backend), lambda y, t: (y - t).square().mean())
    x, y = torch.randn(8, 4), torch.randn(8, 3)
    for strategy in STRATEGIES:
        quadratic_along(loss, strategy=strategy)(params, params, x, y)
    assert not graphs
    torch.compile(nn.Linear(4, 3), backend=backend)(x)
    assert len(graphs) == 1


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(x.mul_(2.0))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        out, _ = pad_packed_sequence(
            self.rnn(pack_padded_sequence(x[:, None].expand(8, 2, 4), torch.tensor([8, 5])))[0]
        )
        return self.head(out[:, 0])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.drop = mlp(), nn.Dropout(0.4)

    def forward(self, x):
        return checkpoint(lambda h: self.drop(self.net(h)), x, use_reentrant=False)


class Reentrant(Checkpointed):
    def forward(self, x):
        return checkpoint(lambda h: self.drop(self.net(h)), x.requires_grad_(), use_reentrant=True)


class Penalised(nn.Module):
    """The gradient of its output is a part of it, as in WGAN-GP and in physics-informed nets."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        x = x.detach().requires_grad_()
        out = self.net(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out + slope.square().sum(1, keepdim=True)


HARD = {"packed": Packed, "checkpointed": Checkpointed, "autograd.grad": Penalised}


@pytest.mark.filterwarnings("ignore")  # that a program was given up
@pytest.mark.parametrize("name", HARD)
def test_a_forward_that_is_hard_to_differentiate_is_measured(name):
    torch.manual_seed(0)
    records = run(HARD[name]())
    assert [record.agrees for record in records] == [True, True]


def test_a_forward_that_changes_its_input_is_refused_with_the_remedy():
    torch.manual_seed(0)
    with pytest.raises(ImpureLossError, match=r"in place .* change a clone of it"):
        run(InPlace(), handed=lambda x, y: (x / 2, y))


@pytest.mark.filterwarnings("ignore")  # that a program was given up
def test_a_reentrant_checkpoint_is_measured_as_the_other_kind_is():
    def numbers(net):
        torch.manual_seed(0)
        return torch.tensor([(r.loss, r.slope, r.curvature, r.trained_slope, r.agrees) for r in run(net())])

    torch.testing.assert_close(numbers(Reentrant), numbers(Checkpointed))


def test_a_gradient_set_to_zero_after_its_batch_is_said_to_be():
    net, (x, y) = nn.Linear(2, 1), (torch.ones(3, 2), torch.ones(3, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Observer(net, MSE, optimizer) as observer:
        MSE(net(x), y).backward()
        observer.batch(x, y)
        optimizer.zero_grad()
        MSE(net(x), y).backward()
        with pytest.raises(ObserverError, match=r"the gradient was set to zero after observer\.batch"):
            optimizer.step()


def test_what_the_user_can_mend_is_raised_at_the_first_step_alone(caplog):
    def handed(x, y):
        return (x, y[:3]) if len(calls) > 1 else (x, y)

    with pytest.raises(
        ObserverError, match=r"the loss cannot be computed from the arguments of observer.batch \(.*loss_of=lambda"
    ):
        run(mlp(), handed=lambda x, y: (x, y[:3]))
    calls = []
    records = run(mlp(), handed=handed, between=lambda net: calls.append(1), steps=4)
    assert [record.step for record in records] == [0, 1]
    assert caplog.text.count("training continues") == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_low_precision_model_is_followed_and_measured_in_float32(dtype):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.drop, self.act, self.scale = mlp(), nn.Dropout(0.0), torch.tanh, 1.0
            self.register_buffer("shift", torch.zeros(3))

        def forward(self, x):
            return self.act(self.drop(self.net(x)) * self.scale + self.shift)

    torch.manual_seed(0)
    net = Net().to(dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    observer = Observer(net, MSE, optimizer)
    changes = [
        lambda: None,
        lambda: setattr(net, "scale", 3.0),
        lambda: setattr(net, "act", torch.sin),
        lambda: net.shift.fill_(0.5),
        lambda: net.net.append(nn.Tanh()),
        lambda: net.net.register_forward_hook(lambda m, a, out: 2 * out),
    ]
    for change in changes:
        change()
        x, y = torch.randn(8, 4, dtype=dtype), torch.randn(8, 3, dtype=dtype)
        optimizer.zero_grad()
        MSE(net(x), y).backward()
        observer.batch(x, y)
        twin = copy.deepcopy(net).float()
        optimizer.step()
        assert observer.last.loss == pytest.approx(F.mse_loss(twin(x.float()), y.float()).item(), rel=1e-5)
        assert observer.last.agrees
        assert all(p.dtype == dtype for p in net.parameters())
        assert net.shift.dtype == dtype
