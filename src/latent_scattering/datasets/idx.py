"""MNIST and Fashion-MNIST: IDX files, found on disk or downloaded.

The layout is torchvision's, ``<root>/MNIST/raw/train-images-idx3-ubyte``, with or
without ``.gz``. What is checked is the sha256 of the decompressed content, since the
same content can be compressed in several ways. A file that is there is only ever read.
"""

import gzip
import hashlib
import io
import math
import struct
import sys
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pooch
from filelock import FileLock
from jaxtyping import Int64, UInt8
from numpy import ndarray

from latent_scattering.errors import DataError

FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
PREFIXES = {"train": "train", "test": "t10k"}
MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
}
"""Where ``<file>.gz`` is downloaded from; tried in turn."""
ROUNDS = 2
"""How often all mirrors are tried."""
TIMEOUT = 10
"""Seconds that a mirror may be silent."""
SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
        ),
        "train-labels-idx1-ubyte": (
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
        ),
        "t10k-images-idx3-ubyte": (
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
        ),
        "t10k-labels-idx1-ubyte": (
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
        ),
    },
}
"""Of the decompressed files."""


def read(
    name: str, split: str, root: Path
) -> tuple[UInt8[ndarray, "n 1 M N"], Int64[ndarray, " n"]]:
    """Return the images and labels of a split, downloaded below `root` if not there.

    Raises
    ------
    DataError
        If a file is truncated or altered, cannot be read or written, or is absent and
        cannot be downloaded.
    """
    images = _read(name, f"{PREFIXES[split]}-images-idx3-ubyte", root)
    labels = _read(name, f"{PREFIXES[split]}-labels-idx1-ubyte", root)
    return images[:, None], labels.astype(np.int64)


def _read(name: str, stem: str, root: Path) -> UInt8[ndarray, "..."]:
    folder, sha256 = root / FOLDERS[name] / "raw", SHA256[name][stem]
    file = _find(folder, stem) or _download(folder, stem, MIRRORS[name], sha256)
    try:
        return _checked(file.read_bytes(), sha256)
    except ValueError as error:
        raise DataError(f"{file}: {error}; delete it to download it again") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error


def _find(folder: Path, stem: str) -> Path | None:
    files = (folder / stem, folder / f"{stem}.gz")
    return next((file for file in files if file.is_file()), None)


def _checked(content: bytes, sha256: str) -> UInt8[ndarray, "..."]:
    """Return the array in an IDX file, or say in a ValueError what is wrong with it."""
    # By content, not by name: some servers decompress what they send.
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except EOFError:
            raise ValueError("truncated (its gzip stream ends early)") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"damaged ({error})") from None
    # The magic number: 0, 0, 8 (unsigned bytes), the number of axes.
    if not content.startswith((b"\0\0\x08\x01", b"\0\0\x08\x03")):
        raise ValueError("not an IDX file of bytes with one or three axes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError("truncated (within its header)")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    size = start + math.prod(shape)
    if len(content) < size:
        raise ValueError(f"truncated ({len(content):,} of {size:,} bytes)")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"altered (its sha256 is {found[:12]}…, not {sha256[:12]}…)")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _download(folder: Path, stem: str, mirrors: tuple[str, ...], sha256: str) -> Path:
    file = folder / f"{stem}.gz"
    part = folder / f".{stem}.gz.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{stem}.lock"):
            # Another process may have made it while this one waited.
            if found := _find(folder, stem):
                return found
            content = _fetch(file, mirrors, sha256)
            try:
                part.write_bytes(content)
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{file}: not there, and it cannot be written "
            f"({error.strerror or error}); free some space, or set "
            "LATENT_SCATTERING_DATA to another folder"
        ) from error
    return file


def _fetch(file: Path, mirrors: tuple[str, ...], sha256: str) -> bytes:
    failures = {}
    for mirror in mirrors * ROUNDS:
        print(f"{mirror}{file.name} → {file.parent}", file=sys.stderr)
        buffer = io.BytesIO()
        try:
            get = pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=1 << 16)
            get(mirror + file.name, buffer, None)
            _checked(buffer.getvalue(), sha256)
            return buffer.getvalue()
        except OSError as error:  # what `requests` raises
            failures[urlsplit(mirror).netloc] = type(error).__name__
        except ValueError as error:
            failures[urlsplit(mirror).netloc] = str(error)
    reasons = ", ".join(f"{host}: {reason}" for host, reason in failures.items())
    raise DataError(
        f"{file.with_suffix('')}[.gz]: not there, nor could it be downloaded "
        f"({reasons}); put it there, or set LATENT_SCATTERING_DATA to the folder "
        f"that has {Path(*file.parts[-3:-1])}"
    )
