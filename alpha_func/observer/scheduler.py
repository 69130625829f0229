"""A learning-rate scheduler that steps by a rule, of what an Observer has measured.

A record's quadratic has α in steps that were taken at learning rate η; per learning rate it is

    value,  slope/η,  curvature/η²        whose α is a learning rate
"""

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from alpha_func import tree
from alpha_func.observer import setup
from alpha_func.observer.observer import Observer
from alpha_func.observer.record import StepRecord
from alpha_func.optimizers.pure import PROPORTIONAL
from alpha_func.quadratic import Quadratic
from alpha_func.step_rules.rule import StepRule

_KEPT = frozenset({"last_epoch", "step_count", "base_lrs", "last_lr", "rule"})


class AlphaLR(LRScheduler):
    """Sets the learning rate by a step rule, from the quadratic of the last step that was measured.

        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        observer = Observer(model, criterion, optimizer)
        scheduler = AlphaLR(optimizer, observer, cdat(2.0))
        for inputs, targets in loader:
            ...
            observer.batch(inputs, targets)
            optimizer.step()
            scheduler.step()

    A quadratic is known after its step was taken, so the rule's rate is that of the next step: one step late. The first
    step is taken at the optimizer's own rate. α is the learning rate of the first group; the other groups keep the
    ratio to it that they began with.

    The rate does not change where there is no new measurement: between measured steps (``Observer(every=10)``), after a
    step that has no record, or whose record says that another loss was trained (``agrees`` is False), and where the
    rule gives no positive rate (d ascended). The record's gain ratio is passed on to the rule, for ``trusted``.

    Args:
        optimizer: one whose step is proportional to its learning rate: SGD, Adam, AdamW, ... (not Adafactor, ASGD,
            Rprop).
        observer: an ``Observer`` of this optimizer alone. If ``measure_on`` is a held-out batch, the rate is free
            of a batch's bias towards its own noise.
        rule: from ``alpha_func.step_rules``; its lengths are learning rates.

    Raises:
        TypeError, ValueError: an argument is not as above.

    It is a ``torch.optim.lr_scheduler.LRScheduler``: ``step``, ``get_last_lr``, ``state_dict``, ``load_state_dict``. A
    step costs a few numbers; the measurement is the observer's.

    >>> from alpha_func.step_rules import greedy
    >>> module = torch.nn.Linear(1, 1, bias=False)
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> inputs, targets = torch.ones(4, 1), torch.zeros(4, 1)
    >>> with Observer(module, torch.nn.MSELoss(), optimizer) as observer:
    ...     scheduler = AlphaLR(optimizer, observer, greedy())
    ...     torch.nn.MSELoss()(module(inputs), targets).backward()
    ...     observer.batch(inputs, targets)
    ...     optimizer.step()
    ...     scheduler.step()
    >>> [round(lr, 6) for lr in scheduler.get_last_lr()]  # the loss is w², its curvature 2
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, observer: Observer, rule: StepRule):
        if not isinstance(observer, Observer):
            raise TypeError(f"observer must be an Observer of the optimizer, got {type(observer).__name__}")
        if not isinstance(rule, StepRule):
            raise TypeError(
                f"rule must be a StepRule such as alpha_func.step_rules.cdat(2.0), got {type(rule).__name__}"
            )
        if isinstance(optimizer, list | tuple):
            raise TypeError(
                f"optimizer must be one optimizer, got {len(optimizer)} of them, whose steps have one α together: put "
                "the parameters in groups of one optimizer, which keep the ratios of their rates"
            )
        if observer.optimizers != setup.bare_optimizers(optimizer):
            raise ValueError(
                "observer watches different optimizers: make it by Observer(model, criterion, optimizer), with the "
                "optimizer that is scheduled and no other"
            )
        (bare,) = observer.optimizers
        if type(bare) not in PROPORTIONAL:
            names = ", ".join(sorted(kind.__name__ for kind in PROPORTIONAL))
            raise ValueError(
                f"the step of {type(bare).__name__} is not known to be proportional to its learning rate, so α is not "
                f"a learning rate of it: use one of {names}"
            )
        if not float(optimizer.param_groups[0]["lr"]) > 0:
            raise ValueError(
                "the lr of the first parameter group is 0: give it a positive one, which the rule then sets"
            )
        self._observer, self._rule = observer, rule
        self._state = rule.init()
        self._seen: StepRecord | None = observer.last
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The rates for the next step; asked by ``step``."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        record, seen = self._observer.last, self._seen
        self._seen = record
        if record is None or record is seen or record.agrees is False:
            return rates
        alpha, self._state = self._rule.update(per_learning_rate(record), self._state, record.gain_ratio)
        if not alpha > 0:
            return rates
        first, *_ = bases = [float(lr) for lr in self.base_lrs]
        return [float(alpha) * base / first for base in bases]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """A copy would follow the records of another optimizer, or of none."""
        raise TypeError(
            "AlphaLR cannot be pickled or copied, as it reads an Observer of this very optimizer: save state_dict(), "
            "make another AlphaLR with the same rule, and load_state_dict"
        )

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, in plain numbers; the optimizer keeps the rates themselves."""
        return {
            "last_epoch": self.last_epoch,
            "step_count": self._step_count,
            "base_lrs": [float(lr) for lr in self.base_lrs],
            "last_lr": [float(lr) for lr in self.get_last_lr()],
            "rule": [float(number) for number in tree.leaves(self._state)],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict`` of a scheduler with the same rule and as many groups.

        Raises:
            ValueError: it is not an AlphaLR's, is another rule's, or has another number of groups.
        """
        lacking = _KEPT.difference(state_dict) if isinstance(state_dict, Mapping) else _KEPT
        if lacking:
            raise ValueError(f"state_dict lacks {', '.join(sorted(lacking))}: give what AlphaLR.state_dict() returned")
        fresh = self._rule.init()
        kept, expected = len(state_dict["rule"]), len(tree.leaves(fresh))
        if kept != expected:
            raise ValueError(
                f"state_dict is of another rule: it has {kept} numbers and this rule keeps {expected}; make AlphaLR "
                "with the rule that it was saved with"
            )
        if len(state_dict["base_lrs"]) != len(self.base_lrs):
            raise ValueError(
                f"state_dict has {len(state_dict['base_lrs'])} groups, the optimizer {len(self.base_lrs)}: load it "
                "with the groups that it was saved with"
            )
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["step_count"]
        self.base_lrs, self._last_lr = list(state_dict["base_lrs"]), list(state_dict["last_lr"])
        self._state = tree.unflatten(list(state_dict["rule"]), tree.structure(fresh))


def per_learning_rate(record: StepRecord) -> Quadratic:
    """The quadratic of a record with α a learning rate; not finite where the rate was 0."""
    numbers = torch.tensor([record.loss, record.slope, record.curvature], dtype=torch.float64)
    value, slope, curvature = numbers.unbind()
    return Quadratic(value, slope / record.lr, curvature / record.lr / record.lr)
