"""Pixels that take long to make: made once, kept in a file, mapped into memory."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import UInt8
from numpy import ndarray
from tqdm import tqdm

from latent_scattering import digest, paths, store
from latent_scattering.errors import ArtefactError

PIXELS, MANIFEST = "pixels.npy", "manifest.json"

# Called with n: yields images 0 … n − 1 in pieces, in any order, each with the number
# of its first image.
Maker = Callable[[int], Iterator[tuple[int, UInt8[ndarray, "_ 3 M N"]]]]


def pixels(
    identity: dict[str, Any], make: Maker, n: int, size: int, *, label: str
) -> UInt8[ndarray, "n 3 size size"]:
    """Return the first n images, made now unless as many are kept already.

    Parameters
    ----------
    identity
        JSON-able; what tells these images, and their order, from all others.
    make
        See `Maker`.
    n, size
        How many, and their side in pixels. As many are kept as were ever asked for.
    label
        Of the progress bar.

    Returns
    -------
    ndarray
        A memory map of a file in `paths.cache()`; what is written into it stays in
        memory.

    Raises
    ------
    ArtefactError
        If the pixels cannot be written (a full or read-only disk), or read back.
    """
    folder = paths.cache() / "pixels" / digest.of_json({**identity, "size": size})[:32]
    with store.writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            kept = _read(folder, n)
            if kept is None:
                with store.replacing(folder) as made:
                    _write(made, identity, make, n, size, label)
                kept = _read(folder, n)
    if kept is None:
        raise ArtefactError(f"{folder}: cannot be read back after it was written")
    return kept


def _read(folder: Path, n: int) -> UInt8[ndarray, "n 3 M N"] | None:
    """Return the first n kept in a folder, or None unless it has as many, and whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["n"] < n:
            return None
        with (folder / PIXELS).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != manifest["sha256"]:
                raise ValueError("its checksum differs")
        # Copy-on-write: torch wants arrays that can be written.
        return np.load(folder / PIXELS, mmap_mode="c")[:n]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        print(f"{folder}: damaged ({error}); it is made again", file=sys.stderr)
        return None


def _write(
    folder: Path, identity: dict[str, Any], make: Maker, n: int, size: int, label: str
) -> None:
    start = time.perf_counter()
    header = {"descr": "|u1", "fortran_order": False, "shape": (n, 3, size, size)}
    # Written, not mapped: on a full disk, writing to mapped memory kills the process.
    with (folder / PIXELS).open("w+b") as file:
        np.lib.format.write_array_header_1_0(file, header)
        first = file.tell()
        with tqdm(total=n, desc=label, unit="image") as bar:  # on stderr
            for i, piece in make(n):
                file.seek(first + i * piece[0].size)
                file.write(piece.tobytes())
                bar.update(len(piece))
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = {
        **identity,
        "n": n,
        "size": size,
        "seconds": time.perf_counter() - start,
        "sha256": sha256,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
