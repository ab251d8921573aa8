"""Artefacts on disk: what is expensive is made once and kept.

An artefact is a folder ``<root>/<stage>/<key>`` with ``tensors.safetensors`` and
``manifest.json``. Its key is a digest of the stage, the parameters, the keys of what
it was made from, and the source code that makes it; so a changed line re-makes
exactly what depends on it.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from latent_scattering import digest, paths
from latent_scattering.errors import ArtefactError

TENSORS, MANIFEST = "tensors.safetensors", "manifest.json"


@dataclass(frozen=True)
class Artefact:
    """What a stage has made: named tensors, and a JSON-able record beside them."""

    key: str
    tensors: dict[str, Tensor]
    record: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """How long the making took, in seconds, whenever that was."""


# A maker gets a folder that survives an interruption (for its checkpoints).
Maker = Callable[[Path], tuple[Mapping[str, Tensor], Mapping[str, Any]]]


class Store:
    """A folder of artefacts (`paths.cache()` by default)."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or paths.cache()

    def get(
        self,
        stage: str,
        parameters: Mapping[str, Any],
        make: Maker,
        *,
        inputs: Sequence[str] = (),
    ) -> Artefact:
        """Return an artefact, made now if it is not on disk or is damaged there.

        Parameters
        ----------
        stage
            A short name, for example ``"whitening"``.
        parameters
            JSON-able values; everything that `make` depends on.
        make
            Called with a work folder, returns ``(tensors, record)``. The folder is
            kept when `make` is interrupted, for its checkpoints. The module in which
            `make` is defined, and what that imports, is part of the key; this one is
            not, since it keeps artefacts and does not make them.
        inputs
            Keys or digests of what it is made from.

        Raises
        ------
        ArtefactError
            If it cannot be written (a full or read-only disk).
        """
        key = digest.of_json(
            {
                "stage": stage,
                "parameters": dict(parameters),
                "inputs": list(inputs),
                "code": digest.of_package([make.__module__]),
            }
        )[:32]
        folder = self.root / stage / key
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                artefact = _read(folder, key)
                if artefact is None:
                    work = folder.with_suffix(".work")
                    work.mkdir(exist_ok=True)
                    start = time.perf_counter()
                    tensors, record = make(work)
                    seconds = time.perf_counter() - start
                    manifest = {
                        "stage": stage,
                        "parameters": dict(parameters),
                        "inputs": list(inputs),
                        "record": dict(record),
                        "seconds": seconds,
                    }
                    write(folder, tensors, manifest)
                    shutil.rmtree(work)
                    artefact = _read(folder, key)
        if artefact is None:
            raise ArtefactError(f"{folder}: cannot be read back after it was written")
        return artefact


def write(
    folder: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> None:
    """Write tensors and their manifest as a whole: all of it, or nothing.

    One process at a time for one folder.
    """
    with replacing(folder) as temporary:
        file = temporary / TENSORS
        save_file({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, file)
        checksum = _checksum(file, manifest)
        text = json.dumps({**manifest, "sha256": checksum}, indent=1)
        (temporary / MANIFEST).write_text(text, encoding="utf-8")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty folder that becomes `folder`, as a whole, if nothing is raised.

    One process at a time for one folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-"
    for left in folder.parent.glob(f"{prefix}*"):  # by a process that was killed
        shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield temporary
        replaced = temporary.with_name(temporary.name + "-old")
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return ``(tensors, manifest)``, or None where there is nothing whole to read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest.pop("sha256") != _checksum(folder / TENSORS, manifest):
            raise ValueError("its checksum differs")
        return load_file(folder / TENSORS), manifest
    except FileNotFoundError:
        return None
    except (
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        OSError,
        safetensors.SafetensorError,
    ) as error:
        print(f"{folder}: damaged ({error}); it is made again", file=sys.stderr)
        return None


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters and buffers, by name, on the CPU."""
    return {name: t.detach().cpu() for name, t in module.state_dict().items()}


def _read(folder: Path, key: str) -> Artefact | None:
    whole = read(folder)
    if whole is None:
        return None
    tensors, manifest = whole
    return Artefact(key, tensors, manifest["record"], manifest["seconds"])


def _checksum(tensors: Path, manifest: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of a file and of the manifest beside it."""
    with tensors.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "sha256")
    checksum.update(json.dumps(manifest).encode())
    return checksum.hexdigest()


class writing:
    """Turn the operating system's refusals to write a folder into an ArtefactError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: object, error: BaseException | None, trace: object
    ) -> None:
        full = isinstance(error, safetensors.SafetensorError) and "os error 28" in str(
            error
        )
        refusals = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT}
        name = getattr(error, "filename", None)
        if isinstance(name, str) and self.folder.is_relative_to(name):
            refusals |= {errno.ENOENT, errno.ENOTDIR, errno.EEXIST}  # no folder there
        if full or (isinstance(error, OSError) and error.errno in refusals):
            what = "No space left on device" if full else os.strerror(error.errno)  # type: ignore[union-attr]
            raise ArtefactError(
                f"{self.folder}: {what}; free some space or set "
                "LATENT_SCATTERING_CACHE to another folder"
            ) from error
