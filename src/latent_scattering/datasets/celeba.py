"""CelebA: faces, aligned; the official archive or the folder extracted from it.

Liu et al. (2015), "Deep learning face attributes in the wild". Its agreement forbids
passing it on, so the reader places ``img_align_celeba.zip`` (or the folder) and
``list_eval_partition.txt`` in ``<root>/celeba``, where torchvision has them, or in
``<root>``.

65,536 and 16,384 images are Angles & Mallat's numbers (section 4). Which ones they took
is not said: here the first of the official train part and of the official test part, in
the order of the files. No person is in both parts. Their first public code names its
test images "2048_after_65536", which would be other photographs of the people trained
on; results on those would be better.

Of the 178×218 pixels the central 128×128 are kept, without resizing: Ziomek & Farrahi
(section 4) state centre crops of that shape, in order to reproduce Angles & Mallat, who
state the shape alone.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from latent_scattering.datasets import photographs
from latent_scattering.errors import DataError

COUNTS = {"train": 65_536, "test": 16_384}
PARTS = {"train": "0", "test": "2"}
ARCHIVE, FOLDER = "img_align_celeba.zip", "img_align_celeba"
PARTITION = "list_eval_partition.txt"
MD5 = {
    ARCHIVE: "00d2c5bc6d35e252742224ab0c1e8fcb",
    PARTITION: "d32c9cbf5e040fd4025c592c306e6668",
}
SHAPE = (178, 218)
SITE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


def find(split: str, root: Path) -> photographs.Source:
    """Return the photographs of ``"train"`` or ``"test"``; they are read later.

    The archive's checksum is verified when they are; that of the partition, here.

    Raises
    ------
    DataError
        If the images or the partition are absent, or the partition is altered.
    """
    images = photographs.locate(
        root, "celeba", (ARCHIVE, FOLDER), f"get Align&Cropped Images from {SITE}"
    )
    partition = photographs.locate(
        root, "celeba", (PARTITION,), f"get Eval/{PARTITION} from {SITE}"
    )
    photographs.check_md5(partition, MD5[PARTITION])
    lines = partition.read_text(encoding="ascii").splitlines()
    parts = [line.split() for line in lines]
    names = [name for name, part in parts if part == PARTS[split]]

    def encoded(n: int) -> Iterator[tuple[int, str, bytes]]:
        read = _from_folder if images.is_dir() else _from_archive
        return read(images, names[:n])

    return photographs.Source(
        name=f"celeba {split}",
        file=images,
        count=COUNTS[split],
        identity={
            **photographs.identity(images),
            "partition": MD5[PARTITION],
            "split": split,
        },
        encoded=encoded,
        shape=SHAPE,
    )


def _from_folder(folder: Path, names: list[str]) -> Iterator[tuple[int, str, bytes]]:
    for i, name in enumerate(names):
        if not (folder / name).is_file():
            raise DataError(f"{folder}: {name}, which {PARTITION} names, is not there")
        with photographs.reading(folder / name), (folder / name).open("rb") as stream:
            encoded = stream.read(photographs.MOST_BYTES)
        yield i, name, encoded


def _from_archive(file: Path, names: list[str]) -> Iterator[tuple[int, str, bytes]]:
    photographs.check_md5(file, MD5[ARCHIVE])
    # RuntimeError: encrypted; NotImplementedError: compressed in an unknown way.
    errors = (zipfile.BadZipFile, RuntimeError, NotImplementedError)
    with photographs.reading(file, *errors), zipfile.ZipFile(file) as archive:
        for i, name in enumerate(names):
            try:
                member = archive.getinfo(f"{FOLDER}/{name}")
            except KeyError:
                raise DataError(
                    f"{file}: {name}, which {PARTITION} names, is not there"
                ) from None
            with archive.open(member) as stream:
                yield i, name, stream.read(photographs.MOST_BYTES)
