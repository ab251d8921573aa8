"""Labeled Faces in the Wild, deep-funneled: its archive, or the folder extracted.

Huang et al. (2012), "Learning to align from scratch": 13,233 faces, aligned. Found as
``lfw-deepfunneled.tgz``, ``.tar`` or folder in ``<root>/lfw-py``, where torchvision has
them, or in ``<root>``; failing those, ``lfw-deepfunneled-*.tar``, a sample of them.

No paper here uses it, and its own parts are pairs of images for recognition. The split
is a fixed permutation (seed 0) of the sorted names of what is there; the last tenth is
held out: 11,910 / 1,323 of all. So the same people are in both parts.

Of the 250×250 pixels the central 128×128 are kept: alignment rotated the images, and
beyond some 150 pixels there are black corners.
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from latent_scattering import digest
from latent_scattering.datasets import photographs
from latent_scattering.errors import DataError

ARCHIVE, TAR, FOLDER = (f"lfw-deepfunneled{suffix}" for suffix in (".tgz", ".tar", ""))
MD5 = "68331da3eb755a505a502b5aacb3c201"
SHAPE = (250, 250)
SITE = "http://vis-www.cs.umass.edu/lfw or a mirror"
# <folder>/<person>/<person>_<number>.jpg
NAME = re.compile(r"lfw-deepfunneled/(?P<person>[^/]+)/(?P=person)_\d{4}\.jpg")

# ValueError and OverflowError: raised by numbers in a header that cannot be.
ERRORS = (tarfile.TarError, ValueError, OverflowError)


def find(split: str, root: Path) -> photographs.Source:
    """Return the photographs of ``"train"`` or ``"test"``; they are read later.

    Raises
    ------
    DataError
        If there are none, or the archive is truncated or altered, or holds a name twice
        or one that leads out of its folder.
    """
    file = photographs.locate(
        root,
        "lfw-py",
        (ARCHIVE, TAR, FOLDER),
        f"get it from {SITE} (md5 {MD5})",
        pattern="lfw-deepfunneled-*.tar",
    )
    if file.name == ARCHIVE:
        photographs.check_md5(file, MD5)
    names = sorted(_in_folder(file) if file.is_dir() else _in_archive(file))
    if len(names) < 10:
        raise DataError(
            f"{file}: {len(names)} photographs <person>/<person>_<number>.jpg in it; "
            "at least 10 are needed"
        )
    words = np.random.Philox(key=0).random_raw(len(names))
    order = np.argsort(words, kind="stable")
    held_out = len(names) // 10
    part = order[:-held_out] if split == "train" else order[-held_out:]
    chosen = [names[i] for i in part]

    def encoded(n: int) -> Iterator[tuple[int, str, bytes]]:
        read = _from_folder if file.is_dir() else _from_archive
        return read(file, chosen[:n])

    return photographs.Source(
        name=f"lfw {split}",
        file=file,
        count=len(chosen),
        identity={**photographs.identity(file), "names": digest.of_json(chosen)},
        encoded=encoded,
        shape=SHAPE,
    )


def _in_folder(folder: Path) -> list[str]:
    with photographs.reading(folder):
        files = [file for file in folder.glob("*/*.jpg") if file.is_file()]
    names = [f"{FOLDER}/{file.parent.name}/{file.name}" for file in files]
    return [name for name in names if NAME.fullmatch(name)]


def _from_folder(folder: Path, names: list[str]) -> Iterator[tuple[int, str, bytes]]:
    for i, name in enumerate(names):
        file = folder.joinpath(*name.split("/")[1:])
        with photographs.reading(file), file.open("rb") as stream:
            yield i, name, stream.read(photographs.MOST_BYTES)


def _in_archive(file: Path) -> list[str]:
    names: set[str] = set()
    with photographs.reading(file, *ERRORS), _open(file) as archive:
        for member in archive:
            # Nothing is extracted, so such members could do no harm; an archive that
            # has them is not the one that was asked for.
            name, path = member.name, PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"{file}: altered ({name!r} leads out of it)")
            if not NAME.fullmatch(name):
                continue
            if not member.isreg():
                raise DataError(f"{file}: altered ({name!r} is a link or the like)")
            if name in names:
                raise DataError(f"{file}: altered ({name!r} is there twice)")
            names.add(name)
        _check_end(file, archive)
    return list(names)


def _from_archive(file: Path, names: list[str]) -> Iterator[tuple[int, str, bytes]]:
    rows = {name: i for i, name in enumerate(names)}
    with photographs.reading(file, *ERRORS), _open(file) as archive:
        # In the archive's order: going back in a compressed one means starting again.
        for member in archive:
            name = member.name
            if name in rows and (stream := archive.extractfile(member)):
                yield rows[name], name, stream.read(photographs.MOST_BYTES)


def _open(file: Path) -> tarfile.TarFile:
    return tarfile.open(file, "r:gz" if file.name == ARCHIVE else "r:")


def _check_end(file: Path, archive: tarfile.TarFile) -> None:
    # tarfile takes an absent or damaged header for the end; only zeros may follow that.
    if file.name == ARCHIVE:
        return  # its checksum was verified
    with file.open("rb") as stream:
        stream.seek(archive.offset)
        rest = stream.read()
    if not rest or rest.strip(b"\0"):
        raise DataError(f"{file}: truncated or damaged after {archive.offset:,} bytes")
