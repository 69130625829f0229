"""What is gathered, and how much of it is whole at a time, as the dispatcher sees it."""

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Traffic(TorchDispatchMode):
    """Counts gathers, the numbers that they give, and the most bytes that are alive: of those, and of all made.

    Attributes:
        calls: the shapes of each gather.    gathered: bytes.    whole, made: the most bytes alive at a time.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.gathered, self.whole, self.made = [], 0, 0, 0
        self._alive, self._known = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        gathers = "all_gather" in str(func)
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if gathers:
            self.calls.append([tuple(each.shape) for each in results])
            self.gathered += sum(each.nbytes for each in results)
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        self._alive = [entry for entry in self._alive if not entry[0].expired()]
        known = {entry[0].cdata for entry in self._alive}
        for each in results:
            storage = each.untyped_storage()
            if storage._cdata not in known | given:
                self._alive.append((StorageWeakRef(storage), storage.nbytes(), gathers))
                known.add(storage._cdata)
        self.whole = max(self.whole, sum(size for _, size, of_gather in self._alive if of_gather))
        self.made = max(self.made, sum(size for _, size, _ in self._alive))
        return out
