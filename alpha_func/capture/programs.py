"""The programs of a loss: the one that holds for a call, recorded and lowered where there is none yet."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.program import LossCall, Program, program_of, raise_its_own_error, require_apart
from alpha_func.capture.tracing.outside import is_outside, outside, plain, stand_in
from alpha_func.capture.tracing.recording import Recorder, Recording
from alpha_func.capture.tracing.refusal import refuse_autocast, tried
from alpha_func.capture.trust import names_of
from alpha_func.errors import CaptureError
from alpha_func.losses.draws import ALONE
from alpha_func.losses.kinds import refuse_kinds
from alpha_func.losses.layouts import Layouts
from alpha_func.losses.memory import addresses
from alpha_func.torch_private import is_batchedtensor
from alpha_func.transforms.engine import Uncaptured
from alpha_func.tree import Tree


class Programs:
    """``programs(params, args, kwargs)``: the program for these arguments, and its inputs.

    Args:
        loss: the loss; it is lowered, and run once for each program, to compare the values.
        unverified, trust: as for ``capture``.
    """

    def __init__(self, loss: Callable[..., Tensor], *, unverified: bool, trust: frozenset[object]):
        self._loss, self._unverified, self._trusted = loss, unverified, names_of(trust)
        self._recorder = Recorder(loss, trust)
        self._stand_ins = Layouts[dict[str, Any]]()  # calls without values, for the guards to look at

    def __call__(
        self, params: Tree, args: Args, kwargs: Kwargs, captured: Callable[[LossCall], None]
    ) -> tuple[Program, list[Tensor]]:
        """The program and its inputs: parameters, state now, tensor arguments; ``captured`` is told of a new one."""
        refuse_autocast()
        flat = type(params) is dict and is_outside()
        if flat:
            names, tensors = [*params, len(args), *kwargs], [*params.values(), *args, *kwargs.values()]
            known = self._stand_ins.find(names, tensors)
            found = None if known is None else self._recorder.known(known, valued=False)
            if found is not None and found[0].lowered is not None:
                program, state = self._program(*found, params)
                return program, [*params.values(), *state, *tensors[len(params) :]]
        leaves, structure = tree.flatten((params, args, kwargs))
        _refuse_kinds(leaves, args, kwargs)
        count = len(tree.leaves(params))
        with outside():
            # The guards are given aliases: no two tensors are one object then, and none is a module's.
            aliases = [
                plain(leaf).requires_grad_(i < count or leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
                for i, leaf in enumerate(leaves)
            ]
            call = tree.unflatten(aliases, structure)
            recording, inputs = self._recorded(call, captured)
            program, state = self._program(recording, inputs, call[0])
        if recording.by_value and any(isinstance(leaf, Tensor) and is_batchedtensor(leaf) for leaf in leaves):
            recording.require_one_reading(self._recorder.names(*tree.unflatten(leaves, structure)))
        if flat and known is None:
            self._stand_ins.keep(names, tensors, lambda: self._recorder.names(*tree.map(stand_in, call)))
        return program, [*leaves[:count], *state, *[leaf for leaf in leaves[count:] if isinstance(leaf, Tensor)]]

    def _recorded(self, call: LossCall, captured: Callable[[LossCall], None]) -> tuple[Recording, Sequence[object]]:
        """The recording of a call, lowered, and its inputs."""
        try:
            recording, inputs = self._recorder(*call)
            if recording.lowered is None:
                with ALONE:
                    if recording.lowered is None:
                        recording.lowered = program_of(
                            self._loss, recording, inputs, call, unverified=self._unverified, trusted=self._trusted
                        )
                        captured(call)
            return recording, inputs
        except CaptureError as error:
            raise_its_own_error(self._loss, call)
            params, by = tree.map(Tensor.detach, call[0]), partial(Uncaptured, self._loss)
            with torch.random.fork_rng(devices=[]):
                message = tried(str(error), lambda strategy: by(strategy).quadratic(params, params, *call[1:]))
            raise CaptureError(message) from error

    def _program(self, recording: Recording, inputs: Sequence[object], params: Tree) -> tuple[Program, list[Tensor]]:
        """The program of a recording, and the tensors that it reads besides its arguments."""
        program, state = recording.lowered
        held = [inputs[i] for i in state]
        if held:  # guards know layouts, and not where a tensor is
            where = addresses([*tree.leaves(params), *held])
            if where is None or where != program.apart:
                require_apart(self._loss, params, held, [recording.sources[i] for i in state])
                program.apart = where
        return program, held


def _refuse_kinds(leaves: list[object], args: Args, kwargs: Kwargs) -> None:
    """At every call: Dynamo's guards on a nested tensor end the process."""
    for leaf in leaves:
        if isinstance(leaf, Tensor) and (leaf.is_nested or leaf.is_quantized):
            refuse_kinds(args, kwargs)
