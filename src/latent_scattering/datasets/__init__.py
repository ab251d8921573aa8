"""The data sets: images as bytes, a train and a test part each."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from latent_scattering import paths
from latent_scattering.datasets import (
    celeba,
    digits,
    idx,
    lfw,
    lsun,
    photographs,
    polygon5,
)
from latent_scattering.errors import ParameterError
from latent_scattering.pixels import to_pixels, to_signed, to_unit

__all__ = ["NAMES", "SPLITS", "Images", "load", "to_pixels", "to_signed", "to_unit"]

Finder = Callable[[str, Path], photographs.Source]
PHOTOGRAPHS: dict[str, Finder] = {
    "celeba": celeba.find,
    "lfw": lfw.find,
    "lsun-bedroom": lsun.find,
}
LABELLED = ("digits", "mnist", "fashion-mnist")
NAMES = (*LABELLED, "polygon5", *PHOTOGRAPHS)
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
          sizes 8 … 512;
        * ``"celeba"``, ``"lsun-bedroom"``: photographs, 3×128×128, 65,536 / 16,384 (see
          `celeba`, `lsun`);
        * ``"lfw"``: photographs, 3×128×128, 11,910 / 1,323: a fixed permutation of the
          13,233, the same people in both parts (see `lfw`).

        ``"celeba-64"``, ``"lsun-bedroom-32"`` … are the same, smaller; sizes 8 … 128.
    split
        ``"train"`` or ``"test"``.
    n
        The first n images only; 0 for all. Of photographs and of ``"polygon5"`` only
        n are made, and, if they are many, once: they are kept in `paths.cache()` and
        mapped into memory from there. All 65,536 at 128×128 take 3.2 GB.
    root
        The folder of the data files, `paths.data()` by default. MNIST and
        Fashion-MNIST are downloaded there when they are absent (see `idx`);
        photographs never are: an error says where to get them.

    Raises
    ------
    ParameterError
        If the name, the split or n is not one of the above.
    DataError
        If a file is truncated, altered, or absent and cannot be downloaded or written.
    ArtefactError
        If decoded photographs cannot be kept (a full or read-only disk).
    """
    if split not in SPLITS:
        raise ParameterError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    if name == "digits":
        pixels, labels = digits.read(split)
    elif name in idx.FOLDERS:
        pixels, labels = idx.read(name, split, root or paths.data())
    elif (size := _size(name, "polygon5", polygon5.SIZES)) is not None:
        available = polygon5.COUNTS[split]
        if n:
            _check_n(n, available, f"{name} {split}")
        pixels, labels = polygon5.read(n or available, size, split=split), None
    elif photographed := _photographed(name):
        find, size = photographed
        source = find(split, root or paths.data())
        if n:
            _check_n(n, source.count, f"{name} {split}")
        pixels, labels = photographs.read(source, n or source.count, size), None
    else:
        raise ParameterError(
            f"data set {name!r} is not one of {', '.join(NAMES)}, nor polygon5-<size> "
            f"with a size of {polygon5.SIZES[0]} … {polygon5.SIZES[-1]}, nor "
            f"{'-<size>, '.join(PHOTOGRAPHS)}-<size> with one of "
            f"{photographs.SIZES[0]} … {photographs.SIZES[-1]}"
        )
    images = Images(
        torch.from_numpy(pixels),
        None if labels is None else torch.from_numpy(labels),
        name,
        split,
    )
    return images.subset(n) if n else images


def _photographed(name: str) -> tuple[Finder, int] | None:
    for base, find in PHOTOGRAPHS.items():
        if (size := _size(name, base, photographs.SIZES)) is not None:
            return find, size
    return None


def _size(name: str, base: str, sizes: range) -> int | None:
    """Return the size in ``<base>-<size>``, 128 in ``<base>``; None in other names."""
    match = re.fullmatch(rf"{base}(?:-([1-9]\d{{0,3}}))?", name)
    size = int(match[1] or 128) if match else 0
    return size if size in sizes else None


def _check_n(n: int, available: int, what: str) -> None:
    if not 1 <= n <= available:
        raise ParameterError(f"n={n}: {what} has {available} images")
