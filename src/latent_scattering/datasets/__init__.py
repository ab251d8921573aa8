"""The data sets: images as bytes, a train and a test part each."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from latent_scattering import paths
from latent_scattering.datasets import digits, idx, polygon5
from latent_scattering.errors import ParameterError
from latent_scattering.pixels import to_pixels, to_signed, to_unit

__all__ = ["NAMES", "SPLITS", "Images", "load", "to_pixels", "to_signed", "to_unit"]

NAMES = ("digits", "mnist", "fashion-mnist", "polygon5")
SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one split of a data set, in a fixed order."""

    pixels: UInt8[Tensor, "n c M N"]
    """0 … 255; one channel (grey) or three (RGB)."""
    labels: Int64[Tensor, " n"] | None
    """Classes, or None where the data set has none."""
    name: str
    split: str

    @cached_property
    def digest(self) -> str:
        """The sha256 (hex) of the shape and the bytes of the pixels."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.contiguous().numpy().data)
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.pixels)

    def subset(self, n: int) -> "Images":
        """Return the first n images; ParameterError if there are fewer."""
        _check_n(n, len(self), f"{self.name} {self.split}")
        labels = None if self.labels is None else self.labels[:n]
        return Images(self.pixels[:n], labels, self.name, self.split)


def load(
    name: str,
    split: Literal["train", "test"],
    *,
    n: int = 0,
    root: Path | None = None,
) -> Images:
    """Return the images of one split of a data set.

    Parameters
    ----------
    name
        One of `NAMES`:

        * ``"digits"``: handwritten digits, 1×32×32, 1,437 / 360: a fixed permutation
          of scikit-learn's 1,797, the same writers in both parts (see `digits`);
        * ``"mnist"``, ``"fashion-mnist"``: 1×28×28, 60,000 / 10,000, the official
          split;
        * ``"polygon5"``: generated, 3×128×128, 65,536 / 16,384: two disjoint streams
          of random numbers (see `polygon5`). ``"polygon5-32"`` is the same at 32×32;
          sizes 8 … 512.
    split
        ``"train"`` or ``"test"``.
    n
        The first n images only; 0 for all. Of ``"polygon5"``, only n are generated;
        all 65,536 at 128×128 take 3.2 GB.
    root
        The folder of the data files, `paths.data()` by default. MNIST and
        Fashion-MNIST are downloaded there when they are absent (see `idx`).

    Raises
    ------
    ParameterError
        If the name, the split or n is not one of the above.
    DataError
        If a file is truncated, altered, or absent and cannot be downloaded or written.
    """
    if split not in SPLITS:
        raise ParameterError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if name == "digits":
        pixels, labels = digits.read(split)
    elif name in idx.FOLDERS:
        pixels, labels = idx.read(name, split, root or paths.data())
    elif (size := _polygon_size(name)) is not None:
        available = polygon5.COUNTS[split]
        if n:
            _check_n(n, available, f"{name} {split}")
        pixels, labels = polygon5.images(n or available, size, split=split), None
    else:
        raise ParameterError(
            f"data set {name!r} is not one of {', '.join(NAMES)}, nor polygon5-<size> "
            f"with a size of {polygon5.SIZES[0]} … {polygon5.SIZES[-1]}"
        )
    images = Images(
        torch.from_numpy(pixels),
        None if labels is None else torch.from_numpy(labels),
        name,
        split,
    )
    return images.subset(n) if n else images


def _polygon_size(name: str) -> int | None:
    match = re.fullmatch(r"polygon5(?:-([1-9]\d{0,3}))?", name)
    size = int(match[1] or 128) if match else 0
    return size if size in polygon5.SIZES else None


def _check_n(n: int, available: int, what: str) -> None:
    if not 1 <= n <= available:
        raise ParameterError(f"n={n}: {what} has {available} images")
