"""The program of a loss of sharded parameters: recorded of stand-ins of the whole shapes, and guarded as any other."""

from collections.abc import Callable
from contextlib import nullcontext

from torch import Tensor

from alpha_func import tree
from alpha_func.calls import Args, Kwargs
from alpha_func.capture.program import Program, program_of, require_apart
from alpha_func.capture.tracing.outside import outside
from alpha_func.capture.tracing.recording import Recorder
from alpha_func.capture.tracing.refusal import refuse_autocast
from alpha_func.losses.draws import ALONE
from alpha_func.losses.kinds import refuse_kinds
from alpha_func.losses.module_loss import ModuleLoss
from alpha_func.losses.sharding import Standing, refuse_partial, reshard, stand_in, unsharded
from alpha_func.shards import local
from alpha_func.tree import Tree


class Lookup:
    """``lookup(params, args, kwargs)``: the program for such arguments, and its inputs, DTensors among them.

    Args:
        loss: as it was given.
        unverified: as for ``capture``.
    """

    def __init__(self, loss: Callable[..., Tensor], unverified: bool):
        self._loss, self._unverified = loss, unverified
        self._recorder = Recorder(loss)

    def __call__(self, params: Tree, args: Args, kwargs: Kwargs) -> tuple[Program, list[Tensor]]:
        """The program and its inputs: parameters, state now, tensor arguments.

        Raises:
            CaptureError: the loss cannot be captured.
        """
        refuse_autocast()
        refuse_kinds(args, kwargs)
        for path, leaf in tree.named_leaves(params):
            refuse_partial(f"params{path}", leaf)
        with ALONE, outside():
            standing = Standing()
            model = self._loss.model if isinstance(self._loss, ModuleLoss) else None
            if model is not None:
                reshard(model)
            call = (
                tree.map(lambda leaf: stand_in(leaf).detach().requires_grad_(), params),
                *tree.map(_alias, (args, kwargs)),
            )
            with unsharded(model, standing) if model is not None else nullcontext():
                recording, inputs = self._recorder(*call)
                if recording.lowered is None:
                    recording.lowered = program_of(
                        self._loss, recording, inputs, call, unverified=self._unverified, has_values=False
                    )
            program, state = recording.lowered
            held = [standing.meant(inputs[i]) for i in state]
            sources = [recording.sources[i] for i in state]
            require_apart(self._loss, tree.map(local, params), list(map(local, held)), sources)
        tensors = [leaf for leaf in tree.leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        return program, [*tree.leaves(params), *held, *tensors]


def _alias(leaf: object) -> object:
    return leaf.detach().requires_grad_(leaf.requires_grad) if isinstance(leaf, Tensor) else leaf
