"""Rows that take long to compute: computed once, and kept for further passes."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor

SPARE = 2**30  # bytes that are left free on the disk, or on the device


class Rows:
    """A stream of n rows for `randomised.fit`: each call gives all of them, in batches.

    What is kept is a row less the mean of the first batch, in float16 (an error of at
    most 2⁻¹¹ of it, or of 2⁻²⁵), and that is what every call gives, the first one too.
    On a CPU it is a file that is mapped into memory; on a GPU it stays there. Where
    there is no room for it, the rows are computed anew for each call.

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
        self._batches: list[int] = []
        """The rows of each batch, once all are kept."""
        self._shift: Tensor | None = None

    def __call__(self) -> Iterator[Float[Tensor, "_ p"]]:
        """Return an iterator over all rows, in the batches of `compute`."""
        if self._batches:
            assert self._kept is not None and self._shift is not None
            for half in self._kept.split(self._batches):
                yield half.to(self._shift) + self._shift
            return
        sizes: list[int] = []
        for x in self.compute():
            if self._shift is None:
                self._shift = x.mean(0)
            half = (x - self._shift).half()
            if self._kept is not None:
                first = sum(sizes)
                self._kept[first : first + len(half)] = half
            sizes.append(len(half))
            yield half.to(x) + self._shift
        if self._kept is not None:
            self._batches = sizes


def _room(
    shape: tuple[int, int], folder: Path, device: torch.device
) -> Float[Tensor, "n p"] | None:
    """Return an empty array for the rows, or None where there is no room."""
    wanted = 2 * shape[0] * shape[1] + SPARE
    if device.type == "cuda":
        if torch.cuda.mem_get_info(device)[0] < wanted:
            return None
        return torch.empty(shape, dtype=torch.float16, device=device)
    if shutil.disk_usage(folder).free < wanted:
        return None
    file, size = folder / "rows.float16", shape[0] * shape[1]
    with file.open("wb") as stream:
        # Reserved: on a full disk, writing to mapped memory kills the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, 2 * size)
    mapped = torch.from_file(str(file), shared=True, size=size, dtype=torch.float16)
    return mapped.view(shape)
