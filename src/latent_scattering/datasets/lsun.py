"""LSUN bedrooms: the folder ``bedroom_train_lmdb``, an LMDB of encoded images.

Yu et al. (2015), "LSUN: Construction of a large-scale image dataset using deep learning
with humans in the loop": 3,033,042 bedrooms whose smaller side is 256. Found in
``<root>/lsun``, or in ``<root>``, where torchvision has it. An LMDB is mapped into
memory, which what lies compressed in a zip file cannot be: the official one, 46 GB, has
to be unzipped.

65,536 and 16,384 images are Angles & Mallat's numbers (section 4); which ones, they do
not say. The official validation part has only 300, so here both are of the train part:
the first 65,536 keys, and the 16,384 that follow. Keys are hashes: their order says
nothing of the images.

Of each image the central square is kept, reduced to 128×128.

A truncated file is noticed. Of one whose pages are damaged LMDB itself notices almost
all, but may end the process where it finds pages that it cannot have written;
``python -m lmdb verify`` looks for such damage without risk.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from latent_scattering.datasets import photographs
from latent_scattering.errors import DataError

COUNTS = {"train": 65_536, "test": 16_384}
FOLDER, ARCHIVE = "bedroom_train_lmdb", "bedroom_train_lmdb.zip"
SITE = "https://github.com/fyu/lsun"


def find(split: str, root: Path) -> photographs.Source:
    """Return the photographs of ``"train"`` or ``"test"``; they are read later.

    Raises
    ------
    DataError
        If the folder is absent, or still in its zip file.
    """
    folder = photographs.locate(
        root, "lsun", (FOLDER, ARCHIVE), f"get {ARCHIVE} from {SITE} and unzip it"
    )
    if folder.name == ARCHIVE:
        raise DataError(f"{folder}: cannot be read in place; unzip it there")
    start = 0 if split == "train" else COUNTS["train"]

    def encoded(n: int) -> Iterator[tuple[int, str, bytes]]:
        return _from_lmdb(folder, start, n)

    return photographs.Source(
        name=f"lsun-bedroom {split}",
        file=folder,
        count=COUNTS[split],
        identity={**photographs.identity(folder / "data.mdb"), "split": split},
        encoded=encoded,
        shape=None,
    )


def _from_lmdb(folder: Path, start: int, n: int) -> Iterator[tuple[int, str, bytes]]:
    import lmdb  # only here: few readers have these 46 GB

    needed = sum(COUNTS.values())
    with (
        photographs.reading(folder, lmdb.Error),
        # No lock: it is only read, perhaps from a disk that cannot be written.
        lmdb.open(
            str(folder), readonly=True, create=False, lock=False, readahead=False
        ) as environment,
    ):
        file, stat = folder / "data.mdb", environment.stat()
        # To read a page beyond the end of the file would kill the process.
        whole = (environment.info()["last_pgno"] + 1) * stat["psize"]
        if (size := file.stat().st_size) < whole:
            raise DataError(f"{file}: truncated ({size:,} of {whole:,} bytes)")
        if stat["entries"] < needed:
            raise DataError(
                f"{file}: {stat['entries']:,} photographs, {needed:,} are needed; "
                "is it the official train part?"
            )
        with environment.begin() as transaction:
            keys = transaction.cursor().iternext(keys=True, values=False)
            for i, key in enumerate(islice(keys, start, start + n)):
                value = transaction.get(key, b"")
                yield i, key.decode(errors="replace"), value
