"""Photographs: cropped, decoded once, and kept as bytes.

Of each photograph the centre is kept, and reduced by the mean over areas (Pillow's BOX
filter): the size is the same choice as in ``polygon5-<size>``, and a mean neither rings
nor leaves the range of bytes. The orientation that EXIF may state is not applied.

Archives are read in place: nothing is extracted. The bytes that a JPEG decodes to
depend a little on the decoder, so Pillow's version is part of what they are kept under.
"""

import hashlib
import io
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import PIL
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from latent_scattering import digest
from latent_scattering.datasets import kept
from latent_scattering.errors import DataError

SIZES = range(8, 129)
CROP = 128
MOST_BYTES = 1 << 23
"""That are read of one photograph; as many or more are refused."""
MOST_PIXELS = 1 << 24
FORMATS = ("JPEG", "WEBP")


@dataclass(frozen=True)
class Source:
    """The photographs of one split, found but not read."""

    name: str
    """Data set and split, for messages."""
    file: Path
    """The archive or folder that has them."""
    count: int
    identity: dict[str, Any]
    """What tells these photographs, and their order, from others; JSON-able."""
    encoded: Callable[[int], Iterator[tuple[int, str, bytes]]]
    """Called with n, yields the first n in any order: index, name, file content."""
    shape: tuple[int, int] | None
    """Width and height that each must have: its central 128×128 is kept. None: any that
    hold 128×128; the central square is kept."""


def read(source: Source, n: int, size: int) -> UInt8[ndarray, "n 3 size size"]:
    """Return the first n photographs in RGB, decoded now unless they are kept already.

    Parameters
    ----------
    source
        From `celeba.find`, `lfw.find` or `lsun.find`.
    n
        1 … `source.count`. What is kept is as many as were ever asked for.
    size
        Side in pixels, one of `SIZES`.

    Returns
    -------
    ndarray
        A memory map; what is written into it stays in memory.

    Raises
    ------
    DataError
        If a file cannot be read, or is truncated, altered, or no such photograph.
    ArtefactError
        If the pixels cannot be written (a full or read-only disk).
    """
    identity = {
        "source": source.identity,
        "name": source.name,
        "pillow": PIL.__version__,
        "code": digest.of_package([source.encoded.__module__]),
    }

    def make(n: int) -> Iterator[tuple[int, UInt8[ndarray, "1 3 size size"]]]:
        count = 0
        for i, pixels in _decoded(source, n, size):
            count += 1
            yield i, pixels[None]
        if count != n:
            raise DataError(f"{source.file}: {count:,} of {n:,} photographs are there")

    return kept.pixels(identity, make, n, size, label=source.name)


def decode(
    encoded: bytes, size: int, shape: tuple[int, int] | None = None
) -> UInt8[ndarray, "3 size size"]:
    """Return the centre of a photograph, or say in a ValueError why there is none.

    `shape` is that of a `Source`.
    """
    if len(encoded) >= MOST_BYTES:
        raise ValueError(f"{MOST_BYTES:,} bytes or more")
    try:
        # Reads no more than the header.
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
            if shape is not None and (width, height) != shape:
                raise ValueError(f"{width}×{height}, not {shape[0]}×{shape[1]} pixels")
            if min(width, height) < CROP or width * height > MOST_PIXELS:
                raise ValueError(
                    f"{width}×{height} pixels; at least {CROP}×{CROP} and at most "
                    f"{MOST_PIXELS:,} in all are allowed"
                )
            side = CROP if shape else min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            rgb = image.convert("RGB").crop((left, top, left + side, top + side))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError("declares far too many pixels") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"no {' nor '.join(FORMATS)} image") from error
    except (OSError, SyntaxError) as error:  # SyntaxError is Pillow's for "broken"
        raise ValueError(f"truncated or damaged ({error})") from error
    if side != size:
        rgb = rgb.resize((size, size), Image.Resampling.BOX)
    return np.asarray(rgb).transpose(2, 0, 1)


def locate(
    root: Path, folder: str, names: Sequence[str], get: str, pattern: str = ""
) -> Path:
    """Return the first of `names` that is there, in ``root/folder`` or `root`.

    Failing that, the first file that matches `pattern`. A DataError says what is wanted
    and, in the words of `get`, where from.
    """
    folders = (root / folder, root)
    found = [f / name for name in names for f in folders if (f / name).exists()]
    if pattern and not found:
        found = [file for f in folders for file in sorted(f.glob(pattern))]
    if found:
        return found[0]
    others = "".join(f" or {name}" for name in names[1:])
    raise DataError(
        f"{root / folder / names[0]}{others}: not there, and never downloaded; {get}, "
        f"or set LATENT_SCATTERING_DATA to the folder that has {folder}/{names[0]}"
    )


@contextmanager
def reading(file: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what the reading of a file raises, and `errors`, into a DataError."""
    caught: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error, *errors)
    try:
        yield
    except caught as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{file}: unreadable, truncated or damaged ({reason})"
        ) from error


def check_md5(file: Path, md5: str) -> None:
    """Raise DataError if a file is not the published one."""
    with reading(file), file.open("rb") as stream:
        found = hashlib.file_digest(stream, "md5").hexdigest()
    if found != md5:
        raise DataError(
            f"{file}: truncated or altered (its md5 is {found}, not {md5}); "
            "get it again"
        )


def identity(file: Path) -> dict[str, Any]:
    """Return what tells a file or folder from others, without reading it."""
    with reading(file):
        stat = file.stat()
    return {"file": file.name, "bytes": stat.st_size, "changed": stat.st_mtime_ns}


def _decoded(
    source: Source, n: int, size: int
) -> Iterator[tuple[int, UInt8[ndarray, "3 size size"]]]:
    """Yield index and pixels; files are read here, and decoded by several threads."""
    workers = joblib.cpu_count()
    pending: deque[tuple[int, str, Future[ndarray]]] = deque()

    def oldest() -> tuple[int, ndarray]:
        i, name, future = pending.popleft()
        try:
            return i, future.result()
        except ValueError as error:
            raise DataError(f"{source.file}: {name}: {error}") from error

    with ThreadPoolExecutor(workers) as pool:
        for i, name, encoded in source.encoded(n):
            pending.append((i, name, pool.submit(decode, encoded, size, source.shape)))
            if len(pending) > 8 * workers:  # so that memory is bounded
                yield oldest()
        while pending:
            yield oldest()
