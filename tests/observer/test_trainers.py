"""The callbacks in short real runs of the trainers that they are for, on the CPU."""

import csv

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alpha_func.observer import measuring

pytestmark = pytest.mark.filterwarnings("ignore")  # the trainers' own


def data(count=24):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, generator=generator)
    return torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True).sin())


def lightning_run(folder, callback=None, *, logger=False, change=lambda net: None, **options):
    import lightning.pytorch as pl

    class Net(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
            self.losses = []

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = F.mse_loss(self.net(x), y)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return {"loss": loss}

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.losses.append(outputs["loss"].item())

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]

    pl.seed_everything(0, verbose=False)
    net = Net()
    change(net)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[callback] if callback else [],
        log_every_n_steps=1, **options,
    )  # fmt: skip
    trainer.fit(net, torch.utils.data.DataLoader(data(), batch_size=4, shuffle=True))
    return net, trainer


def test_a_lightning_run_is_the_same_with_the_callback(tmp_path, monkeypatch):
    from alpha_func.observer.lightning import LightningObserver

    records, captures = [], []
    capture = measuring.capture
    monkeypatch.setattr(measuring, "capture", lambda *a, **k: captures.append(capture(*a, **k)) or captures[-1])
    plain, plain_trainer = lightning_run(tmp_path)
    rng = torch.get_rng_state()
    callback = LightningObserver(every=5, log=records.append)
    observed, trainer = lightning_run(tmp_path, callback)
    assert torch.equal(rng, torch.get_rng_state())
    for (name, one), other in zip(plain.state_dict().items(), observed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert trainer.callback_metrics["train_loss_epoch"] == plain_trainer.callback_metrics["train_loss_epoch"]
    assert [r.step for r in records] == [0, 5, 10]
    assert [r.loss for r in records] == pytest.approx([observed.losses[i] for i in (0, 5, 10)], rel=1e-5)
    assert [r.lr for r in records] == pytest.approx([0.01, 0.01, 0.009])
    assert all(r.weight_decay_share != 0 for r in records)
    assert [each.captured for each in captures] == [1]  # nothing in a LightningModule makes it be captured anew


def test_a_lightning_run_that_accumulates_and_clips_has_its_own_loggers(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    from alpha_func.observer.lightning import LightningObserver

    def loss(net, batch):
        return F.mse_loss(net.net(batch[0]), batch[1])

    logger = CSVLogger(tmp_path)
    lightning_run(
        tmp_path, LightningObserver(every=1, loss=loss), logger=logger, accumulate_grad_batches=2, gradient_clip_val=0.1
    )
    logger.save()
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["alpha_func/alpha_steps"]]
    assert len(rows) == 6
    assert all(float(row["alpha_func/curvature"]) != 0 for row in rows)


def test_a_lightning_module_that_does_more_than_a_loss_is_refused(tmp_path):
    from torchmetrics import MeanMetric

    from alpha_func.observer.lightning import LightningObserver

    with pytest.raises(ValueError, match=r"torchmetrics \(metric\).*give LightningObserver\(loss="):
        lightning_run(tmp_path, LightningObserver(), change=lambda net: net.add_module("metric", MeanMetric()))
    with pytest.raises(ValueError, match=r"manual optimization\).*pass LightningObserver\(loss="):
        lightning_run(tmp_path, LightningObserver(), change=lambda net: setattr(net, "automatic_optimization", False))


def test_a_loss_that_reads_the_index_of_its_batch_is_measured_with_it(tmp_path):
    from alpha_func.observer.lightning import LightningObserver

    def warmed_up(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]), batch[1]) + batch_idx * self.net[0].weight.square().sum()

    records = []
    _, trainer = lightning_run(
        tmp_path,
        LightningObserver(log=records.append),
        change=lambda net: setattr(type(net), "training_step", warmed_up),
    )
    assert len(records) == 12
    assert all(record.agrees for record in records)
    assert trainer.callback_metrics["alpha_func/alpha_steps"] == pytest.approx(records[-1].alpha_steps)
    assert trainer.progress_bar_metrics["alpha_func/alpha_steps"] == pytest.approx(records[-1].alpha_steps)


def test_a_training_step_of_the_batch_alone_and_accumulation_are_measured(tmp_path):
    from alpha_func.observer.lightning import LightningObserver

    def of_batch(self, batch):
        return F.mse_loss(self.net(batch[0]), batch[1])

    records = []
    lightning_run(
        tmp_path,
        LightningObserver(log=records.append),
        accumulate_grad_batches=2,
        gradient_clip_val=0.1,
        change=lambda net: setattr(type(net), "training_step", of_batch),
    )
    assert len(records) == 6
    assert all(record.agrees for record in records)
    assert min(record.gradient_factor for record in records) < 1


def test_manual_optimization_of_several_optimizers_takes_a_loss(tmp_path):
    from alpha_func.observer.lightning import LightningObserver

    def loss(module, batch):
        return F.mse_loss(module.net(batch[0]), batch[1])

    def by_hand(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss(self, batch))
        for optimizer in self.optimizers():
            optimizer.step()

    def change(net):
        net.automatic_optimization = False
        type(net).training_step = by_hand
        type(net).on_train_batch_end = lambda *args: None
        type(net).configure_optimizers = lambda self: [
            torch.optim.SGD(self.net[0].parameters(), lr=0.1),
            torch.optim.Adam(self.net[1:].parameters(), lr=0.01),
        ]

    records = []
    with pytest.raises(ValueError, match="has 2 optimizers: choose one"):
        lightning_run(tmp_path, LightningObserver(loss=loss), change=change)
    lightning_run(tmp_path, LightningObserver(loss=loss, optimizer=[0, 1], log=records.append), change=change)
    assert len(records) == 12
    assert all(record.agrees for record in records)


def hugging_face_run(folder, callback=None, *, change=lambda trainer: None, **options):
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

    set_seed(0)
    drop = 0.0 if options.get("bf16") else 0.1  # under autocast a mask is drawn otherwise than in float32
    config = GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, attn_implementation="eager", use_cache=False,
        resid_pdrop=drop, embd_pdrop=drop, attn_pdrop=drop,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    tokens = torch.randint(11, (16, 6), generator=torch.Generator().manual_seed(2))
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=4, per_device_train_batch_size=2, use_cpu=True, report_to=[],
        save_strategy="no", logging_steps=1, disable_tqdm=True, learning_rate=0.01, weight_decay=0.1,
        lr_scheduler_type="linear", **options,
    )  # fmt: skip
    examples = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = Trainer(model, arguments, train_dataset=examples, callbacks=[callback] if callback else [])
    change(trainer)
    trainer.train()
    assert "compute_loss" not in vars(trainer)
    return model, [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2, "bf16": True}], ids=["plain", "bf16"])
def test_a_hugging_face_run_is_the_same_with_the_callback(tmp_path, options):
    from alpha_func.observer.hugging_face import TrainerObserver

    records = []
    plain, losses = hugging_face_run(tmp_path, **options)
    rng = torch.get_rng_state()
    observed, same = hugging_face_run(tmp_path, TrainerObserver(every=2, log=records.append), **options)
    assert losses == same
    assert torch.equal(rng, torch.get_rng_state())
    for (name, one), other in zip(plain.state_dict().items(), observed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert [r.step for r in records] == [0, 2]
    assert all(r.agrees for r in records)
    if not options:
        assert [r.loss for r in records] == pytest.approx([losses[0], losses[2]], rel=2e-4)  # logged with 4 digits
    assert [r.loss for r in records] == pytest.approx([losses[0], losses[2]], rel=0.05)
    assert [r.lr for r in records] == pytest.approx([0.01, 0.005])


OWN_LOSSES = {
    "label smoothing": {"label_smoothing_factor": 0.1},
    "a function": {
        "change": lambda trainer: setattr(
            trainer, "compute_loss_func", lambda out, labels, num_items_in_batch=None: 3 * out["logits"].square().mean()
        ),
    },
    "checkpointing": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    "accumulation": {"gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("name", OWN_LOSSES)
def test_the_trainers_own_loss_is_measured(tmp_path, name):
    from alpha_func.observer.hugging_face import TrainerObserver

    records = []
    hugging_face_run(tmp_path, TrainerObserver(log=records.append), **OWN_LOSSES[name])
    assert [record.step for record in records] == [0, 1, 2, 3]
    assert all(record.agrees for record in records)
    assert all(record.trained_loss == pytest.approx(record.loss, rel=1e-4) for record in records)


def test_a_trainer_observer_without_a_trainer_says_so():
    from alpha_func.errors import ObserverError
    from alpha_func.observer.hugging_face import TrainerObserver

    with pytest.raises(ObserverError, match="is a callback of a transformers"):
        TrainerObserver().on_train_begin(None, None, None)
