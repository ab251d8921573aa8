"""Rows that take long to compute: computed once, and kept for further passes."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor

SPARE = 2**30  # bytes that are left free on the disk
WORKING = 2**32  # and on a GPU, where all is computed
BATCH = 2**26  # numbers that are read at once: 256 MiB
WHOLE = 2**32  # bytes of a file that memory holds besides: those of rows in float32


class Rows:
    """A stream of n rows for `randomised.fit`: each call gives all of them, in batches.

    What is kept is a row less the mean of the first batch, and that is what every call
    gives, the first one too: in float32, or in float16 where that takes more than 4 GiB
    (on a GPU: more than there is). An error of float16 is at most 2⁻¹¹ of a number, or
    2⁻²⁵; on all of MNIST it turns 512 components by an angle of sine .004, where
    `randomised.fit` itself turns them by .0004. On a CPU the rows are in a file that is
    mapped into memory; on a GPU they stay there. They are read in larger batches than
    they are computed in: to add up the products of small ones would take as long as the
    products. Where there is no room for them, they are computed anew for each call,
    which is slower: on two cores one of an image of 128×128 in colour takes 23 ms
    (`benchmarks/roofline.py`), in which a disk of 14 MB a second reads it.

    Parameters
    ----------
    compute
        Called without arguments; gives the rows, in float32, the same every time.
    shape
        (n, p).
    folder
        For the file.
    device
        Where the rows are computed.
    """

    def __init__(
        self,
        compute: Callable[[], Iterable[Float32[Tensor, "_ p"]]],
        shape: tuple[int, int],
        *,
        folder: Path,
        device: torch.device,
    ) -> None:
        self.compute, self.shape = compute, shape
        self._kept = _room(shape, folder, device)
        self._complete = False
        self._shift: Tensor | None = None

    def __call__(self) -> Iterator[Float[Tensor, "_ p"]]:
        """Return an iterator over all rows."""
        if self._complete:
            assert self._kept is not None and self._shift is not None
            for some in self._kept.split(max(1, BATCH // self.shape[1])):
                yield some.float() + self._shift
            return
        n = 0
        for x in self.compute():
            if self._shift is None:
                self._shift = x.mean(0)
            some = x - self._shift
            if self._kept is not None:
                some = some.to(self._kept.dtype)
                self._kept[n : n + len(some)] = some
            n += len(some)
            yield some.float() + self._shift
        self._complete = self._kept is not None


def _room(
    shape: tuple[int, int], folder: Path, device: torch.device
) -> Float[Tensor, "n p"] | None:
    """Return an empty array for the rows, or None where there is no room."""
    size = shape[0] * shape[1]
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] - WORKING
        if free < 2 * size:
            return None
        kind = torch.float32 if free >= 4 * size else torch.float16
        return torch.empty(shape, dtype=kind, device=device)
    kind = torch.float32 if 4 * size <= WHOLE else torch.float16
    if shutil.disk_usage(folder).free < kind.itemsize * size + SPARE:
        return None
    file = folder / "rows"
    with file.open("wb") as stream:
        # Reserved: on a full disk, writing to mapped memory kills the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, kind.itemsize * size)
    mapped = torch.from_file(str(file), shared=True, size=size, dtype=kind)
    return mapped.view(shape)
