"""Counting the work of a call: arithmetic, and the bytes that its operations move."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Work(NamedTuple):
    """What a call takes."""

    operations: int
    """Real additions and multiplications of matrix products, convolutions and Fourier
    transforms; elementwise arithmetic is not counted."""
    moved: int
    """Bytes that each operation reads and writes, summed over operations: what memory
    or caches must move, since PyTorch executes one operation after the other."""


def count(call: Callable[[], object]) -> Work:
    """Return the work of a call, its backward pass included if it makes one."""
    products, others = FlopCounterMode(display=False), _Counter()
    with others, products:
        call()
    return Work(products.get_total_flops() + others.transforms, others.moved)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.transforms = self.moved = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_free(func):
            self.moved += sum(map(_bytes, tree_leaves((args, kwargs, result))))
        if "_fft_" in func.name():
            self.transforms += _transform(args[0], result, args[1])
        return result


def _is_free(func: Any) -> bool:
    """Whether an operation makes a view, or memory that nothing is written to."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    views = any(alias is not None and not alias.is_write for alias in aliases)
    return views or "empty" in func.name()


def _bytes(leaf: object) -> int:
    # What is expanded is read once.
    if not isinstance(leaf, Tensor):
        return 0
    whole = leaf.untyped_storage().nbytes()
    return min(leaf.numel() * leaf.element_size(), whole)


def _transform(x: Tensor, y: Tensor, axes: list[int]) -> int:
    """Return 5 N log₂ N, as is usual, of a complex transform, half of it of a real."""
    larger = x if x.numel() > y.numel() else y
    N = math.prod(larger.shape[axis] for axis in axes)
    complex_both = x.is_complex() and y.is_complex()
    operations = 5 * larger.numel() * math.log2(N)
    return round(operations if complex_both else operations / 2)
