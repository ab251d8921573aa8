"""CelebA, LFW, LSUN: on small archives made here, whole, damaged and hostile."""

import errno
import functools
import hashlib
import io
import json
import os
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from latent_scattering import digest, paths
from latent_scattering.datasets import celeba, lfw, load, lsun, photographs
from latent_scattering.errors import ArtefactError, DataError, ParameterError


def gradient(width: int, height: int, seed: int = 0) -> np.ndarray:
    """An image (height, width, 3) whose every pixel tells where it was."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, (x + y + 40 * seed) % 256], axis=-1).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def lossless(width: int, height: int, seed: int = 0) -> bytes:
    # At this setting Pillow's WEBP keeps every byte.
    return encoded(gradient(width, height, seed), "WEBP", lossless=True, quality=0)


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """Let a JPEG declare another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LATENT_SCATTERING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


def refused(name: str, root: Path, split: str = "train", n: int = 0) -> str:
    """The message, of one line, with which photographs are refused; none are kept."""
    with pytest.raises(DataError) as caught:
        load(name, split, n=n, root=root)
    kept = paths.cache() / "pixels"
    assert not kept.exists() or {f.suffix for f in kept.iterdir()} <= {".lock"}
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- decode ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(178, 218), (250, 250), (128, 128)])
def test_centre_is_kept_as_it_is(shape: tuple[int, int]):
    width, height = shape
    left, top = (width - 128) // 2, (height - 128) // 2
    pixels = photographs.decode(lossless(*shape), 128, shape)
    expected = gradient(*shape)[top : top + 128, left : left + 128]
    assert np.array_equal(pixels, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(256, 341), (300, 256), (256, 256)])
def test_central_square_is_reduced_by_means(shape: tuple[int, int]):
    width, height = shape
    left, top = (width - 256) // 2, (height - 256) // 2
    square = gradient(*shape)[top : top + 256, left : left + 256].astype(float)
    mean = square.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    pixels = photographs.decode(lossless(*shape), 128)
    assert np.abs(pixels - mean).max() <= 1  # Pillow rounds rows, then columns


@pytest.mark.parametrize("size", [8, 32, 64])
def test_smaller_sizes_are_means_of_the_same_crop(size: int):
    large = photographs.decode(lossless(250, 250), 128, (250, 250)).astype(float)
    small = photographs.decode(lossless(250, 250), size, (250, 250))
    side = 128 // size
    mean = large.reshape(3, size, side, size, side).mean(axis=(2, 4))
    assert small.shape == (3, size, size)
    assert np.abs(small - mean).max() <= 1


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_become_rgb(mode: str):
    buffer = io.BytesIO()
    Image.new(mode, (128, 128)).save(buffer, "JPEG")
    assert photographs.decode(buffer.getvalue(), 128).shape == (3, 128, 128)


JPEG = encoded(gradient(250, 250))


@pytest.mark.parametrize(
    ("content", "shape", "reason"),
    [
        (b"", None, "no JPEG nor WEBP image"),
        (b"<html>no photograph</html>", None, "no JPEG nor WEBP image"),
        (encoded(gradient(250, 250), "PNG"), None, "no JPEG nor WEBP image"),
        (JPEG[: len(JPEG) // 2], None, "truncated or damaged"),
        (JPEG[:20], None, "no JPEG nor WEBP image|truncated or damaged"),
        (JPEG, (178, 218), "250×250, not 178×218 pixels"),
        (encoded(gradient(127, 300)), None, "127×300 pixels; at least 128×128"),
        (with_size(JPEG, 4097, 4097), None, "4097×4097 pixels; .* at most 16,777,216"),
        (with_size(JPEG, 10_000, 10_000), None, "declares far too many pixels"),
        (with_size(JPEG, 65_000, 65_000), (250, 250), "declares far too many pixels"),
        (JPEG + bytes(photographs.MOST_BYTES), None, "8,388,608 bytes or more"),
    ],
)
def test_what_is_no_photograph(content: bytes, shape, reason: str):
    with pytest.raises(ValueError, match=reason):
        photographs.decode(content, 128, shape)


# --- load ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["celeba-7", "celeba-129", "lfw-032", "lfw-", "lsun-bedroom-0", "lsun"]
)
def test_unknown_name_lists_the_sizes(name: str):
    with pytest.raises(ParameterError) as caught:
        load(name, "train")
    assert repr(name) in str(caught.value)
    assert "celeba-<size>, lfw-<size>, lsun-bedroom-<size>" in str(caught.value)
    assert "8 … 128" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "celeba",
            "celeba/img_align_celeba.zip or img_align_celeba: not there, and never "
            "downloaded; get Align&Cropped Images from https://mmlab.ie.cuhk.edu.hk/",
        ),
        (
            "lfw-32",
            "lfw-py/lfw-deepfunneled.tgz or lfw-deepfunneled.tar or lfw-deepfunneled: "
            "not there, and never downloaded; get it from http://vis-www.cs.umass.edu/",
        ),
        (
            "lsun-bedroom",
            "lsun/bedroom_train_lmdb or bedroom_train_lmdb.zip: not there, and never "
            "downloaded; get bedroom_train_lmdb.zip from https://github.com/fyu/lsun "
            "and unzip it",
        ),
    ],
)
def test_absent_says_what_where_and_where_from(
    tmp_path: Path, name, wanted, monkeypatch
):
    monkeypatch.setenv("LATENT_SCATTERING_DATA", str(tmp_path))
    with pytest.raises(DataError) as caught:
        load(name, "train")
    assert str(caught.value).startswith(f"{tmp_path}/{wanted}")
    assert "set LATENT_SCATTERING_DATA to the folder that has" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- CelebA ----------------------------------------------------------------------

FACES = [f"{i:06}.jpg" for i in range(1, 11)]
PARTITION = "".join(f"{name} {'0000011222'[i]}\n" for i, name in enumerate(FACES))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four for training and two for testing."""
    for module in (celeba, lsun):
        monkeypatch.setattr(module, "COUNTS", {"train": 4, "test": 2})


Celeba = Callable[..., Path]


@pytest.fixture
def place_celeba(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Celeba]:
    """Called with changes of the content, it places CelebA, and its checksums."""

    def place(
        changes: dict[str, bytes | None] | None = None,
        *,
        partition: str = PARTITION,
        packed: bool = True,
        damage: Callable[[bytes], bytes] = lambda archive: archive,
    ) -> Path:
        content = {face: lossless(178, 218, i) for i, face in enumerate(FACES)}
        content = {k: v for k, v in {**content, **(changes or {})}.items() if v}
        folder = tmp_path / "celeba"
        folder.mkdir()
        (folder / celeba.PARTITION).write_text(partition)
        monkeypatch.setitem(celeba.MD5, celeba.PARTITION, md5(partition.encode()))
        if not packed:
            (folder / celeba.FOLDER).mkdir()
            for name, data in content.items():
                (folder / celeba.FOLDER / name).write_bytes(data)
            return tmp_path
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content.items():
                archive.writestr(f"{celeba.FOLDER}/{name}", data)
        data = damage(buffer.getvalue())
        (folder / celeba.ARCHIVE).write_bytes(data)
        monkeypatch.setitem(celeba.MD5, celeba.ARCHIVE, md5(data))
        return tmp_path

    yield place


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def face(seed: int) -> np.ndarray:
    return gradient(178, 218, seed)[45:173, 25:153].transpose(2, 0, 1)


@pytest.mark.parametrize("packed", [True, False])
def test_celeba_is_the_first_of_the_official_parts(place_celeba: Celeba, packed: bool):
    root = place_celeba(packed=packed)
    train, test = (load("celeba", split, root=root) for split in ("train", "test"))
    assert train.pixels.dtype == torch.uint8
    assert train.labels is None
    assert np.array_equal(train.pixels, [face(i) for i in (0, 1, 2, 3)])
    assert np.array_equal(test.pixels, [face(i) for i in (7, 8)])
    assert load("celeba-32", "test", n=1, root=root).pixels.shape == (1, 3, 32, 32)
    with pytest.raises(ParameterError, match="n=5: celeba train has 4 images"):
        load("celeba", "train", n=5, root=root)


def test_celeba_without_the_folder_of_its_name(place_celeba: Celeba, tmp_path: Path):
    place_celeba()
    root = (tmp_path / "celeba").rename(tmp_path / "elsewhere")
    assert len(load("celeba", "test", root=root)) == 2


def test_celeba_without_partition(place_celeba: Celeba):
    root = place_celeba()
    (root / "celeba" / celeba.PARTITION).unlink()
    message = refused("celeba", root)
    assert "celeba/list_eval_partition.txt: not there" in message
    assert "get Eval/list_eval_partition.txt from https://mmlab" in message


@pytest.mark.parametrize("file", [celeba.PARTITION, celeba.ARCHIVE])
def test_celeba_altered(place_celeba: Celeba, file: str):
    root = place_celeba()
    path = root / "celeba" / file
    twice = path.read_bytes() + b"000001.jpg 0\n"
    path.write_bytes(twice)
    found, published = md5(twice), celeba.MD5[file]
    expected = f"{path}: truncated or altered (its md5 is {found}, not {published}"
    assert refused("celeba", root).startswith(expected)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "000003.jpg, which list_eval_partition.txt names, is not there"),
        (b"text", "000003.jpg: no JPEG nor WEBP image"),
        (lossless(218, 178), "000003.jpg: 218×178, not 178×218 pixels"),
        (encoded(gradient(178, 218))[:-900], "000003.jpg: truncated or damaged"),
        (with_size(JPEG, 65_000, 65_000), "000003.jpg: declares far too many pixels"),
        (bytes(20_000_000), "000003.jpg: 8,388,608 bytes or more"),  # 20 kB packed
    ],
)
def test_celeba_with_a_bad_image(place_celeba: Celeba, packed, content, reason):
    root = place_celeba({"000003.jpg": content}, packed=packed)
    assert reason in refused("celeba", root)
    assert len(load("celeba", "train", n=2, root=root)) == 2  # it is not among these


def flip(data: bytes, at: int, bits: int = 0xFF) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def in_both_headers(offset: int, bits: int) -> Callable[[bytes], bytes]:
    """Change a byte of the first member's two headers in a zip file."""
    return lambda data: flip(
        flip(data, offset, bits), data.index(b"PK\1\2") + offset + 2, bits
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: a[: len(a) // 2], "File is not a zip file"),
        (lambda a: b"", "File is not a zip file"),
        (lambda a: flip(a, a.index(b"PK\1\2") + 16), "Bad CRC-32"),  # as recorded
        (lambda a: flip(a, 0), "Bad magic number"),
        (lambda a: a[:60] + bytes(200) + a[260:], "Error -3|Bad CRC-32|invalid"),
        (in_both_headers(6, 1), "encrypted"),
        (in_both_headers(8, 64), "compression method is not supported"),
    ],
)
def test_celeba_in_a_damaged_zip_file(place_celeba: Celeba, damage, reason: str):
    # As though the checksum were right.
    message = refused("celeba", place_celeba(damage=damage))
    assert "img_align_celeba.zip: unreadable, truncated or damaged (" in message
    assert any(part in message for part in reason.split("|")), message


def test_partition_that_names_too_few(place_celeba: Celeba):
    root = place_celeba(partition="000001.jpg 0\n000002.jpg 1\n")
    assert "1 of 4 photographs are there" in refused("celeba", root)


def test_file_that_cannot_be_read(place_celeba: Celeba, monkeypatch):
    root = place_celeba(packed=False)
    opened = Path.open

    def refuse(self: Path, *arguments: object, **more: object) -> object:
        if self.name == "000002.jpg":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    message = refused("celeba", root)
    assert "000002.jpg: unreadable, truncated or damaged (Permission denied)" in message


# --- what is kept ----------------------------------------------------------------


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each photograph that is decoded."""
    decode, counted = photographs.decode, []

    def count(*arguments: object) -> object:
        counted.append(1)
        return decode(*arguments)

    monkeypatch.setattr(photographs, "decode", count)
    return counted


def test_decoded_once_and_again_when_more_are_asked_for(place_celeba, decodings, cache):
    root = place_celeba()
    for n, decoded in [(2, 2), (1, 2), (2, 2), (4, 6), (3, 6), (0, 6)]:
        images = load("celeba", "train", n=n, root=root)
        assert np.array_equal(images.pixels, [face(i) for i in range(n or 4)])
        assert len(decodings) == decoded
    (kept,) = (f for f in cache.iterdir() if f.is_dir())
    assert {f.name for f in kept.iterdir()} == {"pixels.npy", "manifest.json"}
    manifest = json.loads((kept / "manifest.json").read_text())
    assert manifest["n"] == 4
    assert manifest["name"] == "celeba train"
    assert manifest["source"]["file"] == "img_align_celeba.zip"
    assert manifest["source"]["partition"] == celeba.MD5[celeba.PARTITION]
    assert np.load(kept / "pixels.npy").shape == (4, 3, 128, 128)


def test_splits_and_sizes_and_files_are_kept_apart(place_celeba, decodings):
    root = place_celeba()
    for name, split in [("celeba", "train"), ("celeba", "test"), ("celeba-64", "test")]:
        load(name, split, n=2, root=root)
    assert len(decodings) == 6
    file = root / "celeba" / celeba.ARCHIVE
    os.utime(file, ns=(0, 0))  # another file may have taken its place
    load("celeba", "test", n=2, root=root)
    assert len(decodings) == 8


def test_torch_may_write_into_what_is_mapped(place_celeba: Celeba):
    root = place_celeba()
    mapped = photographs.read(celeba.find("train", root), 4, 128)
    assert isinstance(mapped, np.memmap)
    pixels = load("celeba", "train", root=root).pixels
    before = pixels.clone()
    pixels.zero_()
    assert torch.equal(load("celeba", "train", root=root).pixels, before)


def altered(file: Path) -> None:
    file.write_bytes(flip(file.read_bytes(), 5_000, 1))


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("pixels.npy", lambda file: file.write_bytes(b"half"), "its checksum differs"),
        ("pixels.npy", altered, "its checksum differs"),
        ("manifest.json", lambda file: file.write_text("{"), "Expecting"),
        ("manifest.json", lambda file: file.write_text("[]"), "list indices"),
        ("manifest.json", lambda file: file.write_text('{"n": 4}'), "'sha256'"),
        ("pixels.npy", Path.unlink, None),
    ],
)
def test_what_is_kept_and_damaged_is_made_again(
    place_celeba, cache: Path, capsys, file: str, damage, reason: str | None
):
    root = place_celeba()
    digest = load("celeba", "train", root=root).digest
    (kept,) = (f for f in cache.iterdir() if f.is_dir())
    damage(kept / file)
    capsys.readouterr()
    assert load("celeba", "train", root=root).digest == digest
    said = capsys.readouterr().err
    assert reason is None or said.startswith(f"{kept}: damaged ({reason}")
    assert "it is made again" not in said or reason
    load("celeba", "train", root=root)
    assert capsys.readouterr().err == ""


def interrupted_by(error: BaseException) -> Callable[..., Iterator[object]]:
    decoded = photographs._decoded

    def two(*arguments: object) -> Iterator[object]:
        for i, pair in enumerate(decoded(*arguments)):
            if i == 2:
                raise error
            yield pair

    return two


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            ArtefactError,
            "No space left on device; free some space or set LATENT_SCATTERING_CACHE",
        ),
        (OSError(errno.EROFS, "?"), ArtefactError, "Read-only file system"),
    ],
)
def test_interrupted_or_full_leaves_nothing(
    place_celeba, cache: Path, monkeypatch, error, raised, message
):
    root = place_celeba()
    load("celeba", "train", n=1, root=root)  # stays as it is
    (kept,) = (f for f in cache.iterdir() if f.is_dir())
    with monkeypatch.context() as interrupted:
        interrupted.setattr(photographs, "_decoded", interrupted_by(error))
        with pytest.raises(raised, match=message) as caught:
            load("celeba", "train", root=root)
    assert "\n" not in str(caught.value)
    assert [f for f in cache.iterdir() if f.is_dir()] == [kept]
    assert json.loads((kept / "manifest.json").read_text())["n"] == 1
    assert len(load("celeba", "train", root=root)) == 4


def test_what_a_killed_process_left_is_removed(place_celeba, cache: Path):
    root = place_celeba()
    load("celeba", "train", n=1, root=root)
    (kept,) = (f for f in cache.iterdir() if f.is_dir())
    left = cache / f".{kept.name}-killed"
    left.mkdir()
    (left / "pixels.npy").write_bytes(b"half")
    load("celeba", "train", root=root)
    assert [f for f in cache.iterdir() if f.is_dir()] == [kept]


def test_two_at_once_decode_once(place_celeba, decodings, monkeypatch):
    # Python 3.11 may fail to parse sources in several threads at once.
    code = digest.of_package([celeba.__name__])
    monkeypatch.setattr(photographs.digest, "of_package", lambda modules: code)
    root = place_celeba()
    with ThreadPoolExecutor(4) as pool:
        both = [pool.submit(load, "celeba", "train", root=root) for _ in range(4)]
        assert len({images.result().digest for images in both}) == 1
    assert len(decodings) == 4


def test_decoded_by_several_threads(place_celeba, monkeypatch):
    monkeypatch.setattr(photographs.joblib, "cpu_count", lambda: 3)
    decode, threads = photographs.decode, set()
    together = threading.Barrier(2, timeout=10)

    def meet(*arguments: object) -> object:
        threads.add(threading.get_ident())
        together.wait()  # with one thread, this would fail
        return decode(*arguments)

    monkeypatch.setattr(photographs, "decode", meet)
    pixels = load("celeba", "train", root=place_celeba()).pixels
    assert len(threads) > 1
    assert np.array_equal(pixels, [face(i) for i in range(4)])


# --- LFW -------------------------------------------------------------------------

PEOPLE = [f"Person_{i // 2}" for i in range(20)]
LFW = {
    f"lfw-deepfunneled/{person}/{person}_{i % 2 + 1:04}.jpg": lossless(250, 250, i)
    for i, person in enumerate(PEOPLE)
}


def member(
    name: str, data: bytes = b"", **more: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in more.items():
        setattr(info, field, value)
    return info, data


def place_lfw(
    root: Path,
    *others: tuple[tarfile.TarInfo, bytes],
    file: str = "lfw-py/lfw-deepfunneled.tar",
    damage: Callable[[bytes], bytes] = lambda archive: archive,
) -> Path:
    buffer = io.BytesIO()
    mode = "w:gz" if file.endswith("gz") else "w"
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        # Not in the order of names.
        for info, data in [*(member(k, LFW[k]) for k in reversed(LFW)), *others]:
            archive.addfile(info, io.BytesIO(data))
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_bytes(damage(buffer.getvalue()))
    return root


def test_lfw_is_a_fixed_permutation(tmp_path: Path):
    place_lfw(tmp_path)
    train, test = (load("lfw", split, root=tmp_path) for split in ("train", "test"))
    assert train.labels is test.labels is None
    assert (len(train), len(test)) == (18, 2)
    order = np.argsort(np.random.Philox(key=0).random_raw(20), kind="stable")
    names = sorted(LFW)
    expected = [[*LFW].index(names[i]) for i in order]
    for images, part in ((train, expected[:18]), (test, expected[18:])):
        for pixels, i in zip(images.pixels, part, strict=True):
            centre = gradient(250, 250, i)[61:189, 61:189].transpose(2, 0, 1)
            assert np.array_equal(pixels, centre)
    assert expected[:4] == [0, 2, 11, 17]
    with pytest.raises(ParameterError, match="n=3: lfw test has 2 images"):
        load("lfw", "test", n=3, root=tmp_path)


def test_lfw_is_the_same_from_archive_and_folder(tmp_path: Path, monkeypatch):
    roots = [tmp_path / name for name in ("tar", "tgz", "folder", "sample")]
    for root in roots:
        root.mkdir()
    place_lfw(roots[0])
    place_lfw(roots[1], file="lfw-deepfunneled.tgz")
    data = (roots[1] / "lfw-deepfunneled.tgz").read_bytes()
    monkeypatch.setattr(lfw, "MD5", md5(data))
    for name, content in LFW.items():
        (roots[2] / name).parent.mkdir(parents=True, exist_ok=True)
        (roots[2] / name).write_bytes(content)
    (roots[2] / "lfw-deepfunneled" / "Person_0" / "notes.jpg").write_bytes(b"")
    place_lfw(roots[3], file="lfw-deepfunneled-20.tar")
    for split in ("train", "test"):
        assert len({load("lfw-16", split, root=root).digest for root in roots}) == 1


def test_lfw_passes_over_other_members(tmp_path: Path):
    others = [
        member("lfw-deepfunneled", type=tarfile.DIRTYPE),
        member("lfw-deepfunneled/README", b"text"),
        member("lfw-deepfunneled/Person_0/._Person_0_0001.jpg", b"text"),
        member("lfw-deepfunneled/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    ]
    place_lfw(tmp_path, *others)
    assert len(load("lfw-8", "train", root=tmp_path)) == 18


NAME = "lfw-deepfunneled/Other/Other_0001.jpg"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (member("../outside.jpg", b"x"), "altered ('../outside.jpg' leads out of it)"),
        (member("lfw-deepfunneled/../../x", b"x"), "/../../x' leads out of it)"),
        (member("/etc/cron.d/x", b"x"), "altered ('/etc/cron.d/x' leads out of it)"),
        (
            member(NAME, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            f"altered ({NAME!r} is a link or the like)",
        ),
        (member(NAME, type=tarfile.LNKTYPE, linkname="x"), "is a link or the like"),
        (member(NAME, type=tarfile.FIFOTYPE), "is a link or the like"),
        (member(min(LFW), b"x"), f"altered ({min(LFW)!r} is there twice)"),
    ],
)
def test_lfw_in_a_hostile_archive(tmp_path: Path, other, reason: str):
    place_lfw(tmp_path, other)
    file = tmp_path / "lfw-py" / "lfw-deepfunneled.tar"
    message = refused("lfw", tmp_path)
    assert message.startswith(f"{file}: altered (")
    assert reason in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text", "no JPEG nor WEBP image"),
        (lossless(250, 251), "250×251, not 250×250 pixels"),
        (with_size(JPEG, 65_000, 65_000), "declares far too many pixels"),
        (bytes(photographs.MOST_BYTES), "8,388,608 bytes or more"),
    ],
)
def test_lfw_with_a_bad_image(tmp_path: Path, monkeypatch, content, reason):
    monkeypatch.setitem(LFW, min(LFW), content)
    place_lfw(tmp_path)
    assert f"{min(LFW)}: {reason}" in refused("lfw", tmp_path)


SECOND_HEADER = 512 + -(-len(LFW[max(LFW, key=[*LFW].index)]) // 512) * 512


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: b"", "unreadable, truncated or damaged"),
        (lambda a: b"text" * 500, "unreadable, truncated or damaged"),
        (lambda a: a[: SECOND_HEADER - 600], "unreadable, truncated or damaged"),
        (lambda a: a[:SECOND_HEADER], "truncated or damaged after"),
        (lambda a: a.rstrip(b"\0"), "truncated or damaged"),
        (lambda a: flip(a, SECOND_HEADER + 3), "truncated or damaged after"),
        # The first member declares 7 GB.
        (lambda a: a[:124] + b"77777777777" + a[135:], "truncated or damaged"),
        # … or 2⁸⁸ bytes.
        (lambda a: a[:124] + b"\x80" + b"\xff" * 11 + a[136:], "truncated or damaged"),
    ],
)
def test_lfw_in_a_damaged_archive(tmp_path: Path, damage, reason: str):
    place_lfw(tmp_path, damage=damage)
    message = refused("lfw", tmp_path)
    assert message.startswith(f"{tmp_path}/lfw-py/lfw-deepfunneled.tar: ")
    assert reason in message


def test_lfw_archive_is_the_published_one(tmp_path: Path):
    place_lfw(tmp_path, file="lfw-deepfunneled.tgz", damage=lambda a: a[:-100])
    message = refused("lfw", tmp_path)
    assert "lfw-deepfunneled.tgz: truncated or altered (its md5 is " in message
    assert f"not {lfw.MD5}); get it again" in message


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda a: a[: len(a) // 2], "end-of-stream"),
        (lambda a: flip(a, len(a) // 2), "Error -3|CRC|invalid|end"),
    ],
)
def test_lfw_in_a_damaged_compressed_archive(
    tmp_path: Path, monkeypatch, damage, reason: str
):
    # As though the checksum were right.
    file = "lfw-deepfunneled.tgz"
    place_lfw(tmp_path, file=file, damage=damage)
    monkeypatch.setattr(lfw, "MD5", md5((tmp_path / file).read_bytes()))
    message = refused("lfw", tmp_path)
    assert "tgz: unreadable, truncated or damaged (" in message


def test_lfw_folder_with_too_few(tmp_path: Path):
    person = tmp_path / "lfw-deepfunneled" / "Person_0"
    person.mkdir(parents=True)
    (person / "Person_0_0001.jpg").write_bytes(JPEG)
    message = refused("lfw", tmp_path)
    assert "1 photographs <person>/<person>_<number>.jpg in it; at least 10" in message


def test_lfw_is_the_real_one():
    root = paths.data()
    if not any((*root.glob("lfw-deepfunneled*"), *root.glob("lfw-py/lfw-deep*"))):
        pytest.skip(f"{root} has no LFW; set LATENT_SCATTERING_DATA")
    images = load("lfw", "test", n=16, root=root)
    assert images.pixels.shape == (16, 3, 128, 128)
    assert len({pixels.numpy().tobytes() for pixels in images.pixels}) == 16
    assert images.pixels.float().std(dim=(1, 2, 3)).min() > 20
    # No black corners, which the alignment leaves: hardly any pixel is 0.
    assert (images.pixels == 0).all(dim=1).float().mean() < 0.02
    # Faces: skin is redder than it is blue.
    red, _, blue = images.pixels[:, :, 32:96, 32:96].float().mean(dim=(0, 2, 3))
    assert red > blue + 10
    small = load("lfw-32", "test", n=4, root=root).pixels
    pooled = torch.nn.functional.avg_pool2d(images.pixels[:4].float(), 4)
    assert (pooled - small).abs().max() <= 1


# --- LSUN ------------------------------------------------------------------------

KEYS = [hashlib.sha1(bytes([i])).hexdigest().encode() for i in range(8)]


def place_lsun(
    root: Path,
    changes: dict[bytes, bytes] | None = None,
    *,
    damage: Callable[[bytes], bytes] = lambda file: file,
) -> Path:
    folder = root / "lsun" / lsun.FOLDER
    folder.mkdir(parents=True)
    values = {key: lossless(256, 300, i) for i, key in enumerate(sorted(KEYS))}
    with (
        lmdb.open(str(folder), map_size=1 << 24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in {**values, **(changes or {})}.items():
            transaction.put(key, value)
    file = folder / "data.mdb"
    file.write_bytes(damage(file.read_bytes()))
    (folder / "lock.mdb").unlink()
    return root


def test_lsun_is_the_first_keys_and_those_that_follow(tmp_path: Path, few):
    root = place_lsun(tmp_path)
    train, test = (load("lsun-bedroom", s, root=root) for s in ("train", "test"))
    expected = [photographs.decode(lossless(256, 300, i), 128) for i in range(6)]
    assert np.array_equal(train.pixels, expected[:4])
    assert np.array_equal(test.pixels, expected[4:])
    assert train.labels is None
    assert {f.name for f in (root / "lsun" / lsun.FOLDER).iterdir()} == {"data.mdb"}
    one = load("lsun-bedroom-16", "test", n=1, root=root)
    assert one.pixels.shape == (1, 3, 16, 16)
    with pytest.raises(ParameterError, match="n=3: lsun-bedroom test has 2 images"):
        load("lsun-bedroom", "test", n=3, root=root)


def test_lsun_in_torchvisions_place(tmp_path: Path, few):
    root = place_lsun(tmp_path) / "lsun"
    assert len(load("lsun-bedroom", "test", root=root)) == 2


def test_lsun_that_is_still_zipped(tmp_path: Path):
    (tmp_path / lsun.ARCHIVE).write_bytes(b"")
    message = refused("lsun-bedroom", tmp_path)
    assert message.endswith(
        "bedroom_train_lmdb.zip: cannot be read in place; unzip it there"
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: b"", "unreadable, truncated or damaged ("),
        (lambda f: b"text" * 5000, "unreadable, truncated or damaged ("),
        (lambda f: f[:5000], "data.mdb: truncated (5,000 of "),
        (lambda f: f[: len(f) // 2], "data.mdb: truncated ("),
        (lambda f: f[:-1], "data.mdb: truncated ("),
    ],
)
def test_lsun_damaged(tmp_path: Path, few, damage, reason: str):
    root = place_lsun(tmp_path, damage=damage)
    message = refused("lsun-bedroom", root)
    assert message.startswith(f"{root}/lsun/bedroom_train_lmdb")
    assert reason in message


def test_lsun_folder_without_its_file(tmp_path: Path):
    (tmp_path / lsun.FOLDER).mkdir()
    message = refused("lsun-bedroom", tmp_path)
    assert "data.mdb: unreadable, truncated or damaged (No such file" in message


def test_lsun_with_too_few(tmp_path: Path):
    message = refused("lsun-bedroom", place_lsun(tmp_path), n=1)
    assert "data.mdb: 8 photographs, 81,920 are needed" in message
    assert "is it the official train part?" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text", "no JPEG nor WEBP image"),
        (lossless(100, 300), "100×300 pixels; at least 128×128"),
        (with_size(JPEG, 65_000, 65_000), "declares far too many pixels"),
        (bytes(photographs.MOST_BYTES), "8,388,608 bytes or more"),
    ],
)
def test_lsun_with_a_bad_image(tmp_path: Path, few, content, reason):
    key = sorted(KEYS)[1]
    root = place_lsun(tmp_path, {key: content})
    assert f"{key.decode()}: {reason}" in refused("lsun-bedroom", root)
