import errno
import gzip
import hashlib
import inspect
import itertools
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from latent_scattering.datasets import (
    NAMES,
    Images,
    digits,
    idx,
    load,
    polygon5,
    to_signed,
    to_unit,
)
from latent_scattering.errors import DataError, ParameterError

# --- Images, load ----------------------------------------------------------------


def test_to_unit_and_to_signed_are_exact_at_the_ends():
    pixels = torch.arange(256, dtype=torch.uint8)
    unit, signed = to_unit(pixels), to_signed(pixels)
    assert unit.dtype == signed.dtype == torch.float32
    assert (unit[0], unit[-1], signed[0], signed[-1]) == (0, 1, -1, 1)
    assert torch.equal((unit * 255).round().to(torch.uint8), pixels)
    assert torch.equal(((signed + 1) * 127.5).round().to(torch.uint8), pixels)


def test_digest_is_of_shape_and_bytes():
    pixels = torch.arange(48, dtype=torch.uint8).reshape(2, 1, 4, 6)
    digest = Images(pixels, None, "a", "train").digest
    expected = hashlib.sha256(b"(2, 1, 4, 6)" + bytes(range(48))).hexdigest()
    assert digest == expected
    assert Images(pixels.reshape(2, 1, 6, 4), None, "a", "train").digest != digest
    swapped = pixels.mT.contiguous().mT  # other strides, same values
    assert Images(swapped, None, "b", "test").digest == digest


def test_subset_is_the_first_n():
    images = Images(
        torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1),
        torch.arange(5),
        "a",
        "b",
    )
    part = images.subset(3)
    assert len(part) == 3
    assert part.pixels.flatten().tolist() == part.labels.tolist() == [0, 1, 2]
    assert len(images.subset(5)) == 5
    for n in (0, -1, 6):
        with pytest.raises(ParameterError, match=f"n={n}: a b has 5 images"):
            images.subset(n)


@pytest.mark.parametrize(
    "name", ["minst", "polygon5-", "polygon5-7", "polygon5-513", "polygon5-032", ""]
)
def test_unknown_name_lists_the_allowed(name: str):
    with pytest.raises(ParameterError) as caught:
        load(name, "train")
    assert repr(name) in str(caught.value)
    assert all(allowed in str(caught.value) for allowed in NAMES)


def test_unknown_split():
    with pytest.raises(ParameterError, match="'valid' is not one of train, test"):
        inspect.unwrap(load)("digits", "valid")  # a shape checker would refuse it too


@pytest.mark.parametrize(
    ("name", "split", "available"),
    [("digits", "test", 360), ("polygon5-8", "test", 16_384)],
)
def test_too_many_says_how_many_there_are(name: str, split: str, available: int):
    with pytest.raises(ParameterError, match=f"has {available} images"):
        load(name, split, n=available + 1)


# --- digits ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "n", "digest"),
    [
        (
            "train",
            1437,
            "eaa0eac1cb756d899476e672da2f95b170f159457df5d292ddd27c09cbf3a6d3",
        ),
        (
            "test",
            360,
            "81d8322331c3929381263773cdf518f3d1dcdbf5dcfdb51dabe05c95e4232d4e",
        ),
    ],
)
def test_digits_are_the_same_bytes_everywhere(split: str, n: int, digest: str):
    images = load("digits", split)
    assert images.pixels.shape == (n, 1, 32, 32)
    assert images.digest == digest
    assert torch.equal(load("digits", split, n=7).pixels, images.pixels[:7])


def test_digits_split_is_a_partition():
    parts = [load("digits", split) for split in ("train", "test")]
    different = {image.numpy().tobytes() for part in parts for image in part.pixels}
    assert len(different) == 1797  # scikit-learn's are all different
    labels = torch.cat([part.labels for part in parts])
    assert Counter(labels.tolist()) == Counter(load_digits().target.tolist())


def test_enlargement_is_keys_cubic():
    matrix = digits.enlargement(8)
    assert np.array_equal(matrix.sum(axis=1), np.ones(32))
    assert np.array_equal(matrix[::-1, ::-1], matrix)
    assert np.array_equal(matrix * 1024, np.rint(matrix * 1024))  # exact in float64
    # With a = -1/2, and with no other a, parabolas are reproduced, away from the edges.
    x, inside = np.arange(8.0), slice(6, 26)
    centre = (np.arange(32) + 0.5) / 4 - 0.5
    assert np.array_equal((matrix @ x**2)[inside], centre[inside] ** 2)


# --- MNIST, Fashion-MNIST --------------------------------------------------------


def test_mnist_is_the_real_one(mnist_root: Path):
    train, test = (load("mnist", s, root=mnist_root) for s in ("train", "test"))
    assert train.pixels.shape == (60_000, 1, 28, 28)
    assert test.pixels.shape == (10_000, 1, 28, 28)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels.bincount().tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    part = load("mnist", "test", n=100, root=mnist_root)
    assert part.digest == test.subset(100).digest
    with pytest.raises(ParameterError, match="has 10000 images"):
        load("mnist", "test", n=10_001, root=mnist_root)


def test_fashion_mnist_is_the_real_one(fashion_mnist_root: Path):
    test = load("fashion-mnist", "test", root=fashion_mnist_root)
    assert test.pixels.shape == (10_000, 1, 28, 28)
    assert test.labels.bincount().tolist() == [1000] * 10


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
PIXELS = np.arange(5 * 28 * 28).reshape(5, 28, 28).astype(np.uint8)
TINY = {
    IMAGES: struct.pack(">4I", 0x803, 5, 28, 28) + PIXELS.tobytes(),
    LABELS: struct.pack(">2I", 0x801, 5) + bytes([3, 1, 4, 1, 5]),
}


class Mirror:
    """A server on this machine that can misbehave."""

    def __init__(self) -> None:
        self.files = {f"{k}.gz": gzip.compress(v) for k, v in TINY.items()}
        self.asked: list[str] = []
        self.cut_short = 0  # how many answers end early
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/mnist/")
                mirror.asked.append(name)
                if name not in mirror.files:
                    self.send_error(404)
                    return
                content = mirror.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if mirror.cut_short > 0:
                    mirror.cut_short -= 1
                    content = content[: len(content) // 2]
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mnist/"


@pytest.fixture(autouse=True)
def no_outside_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every download to a port of this machine where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/"
    for name in idx.MIRRORS:
        monkeypatch.setitem(idx.MIRRORS, name, (nowhere,))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {k: hashlib.sha256(v).hexdigest() for k, v in TINY.items()}
    monkeypatch.setitem(idx.SHA256, "mnist", digests)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tiny: None) -> Iterator[Mirror]:
    mirror = Mirror()
    monkeypatch.setitem(idx.MIRRORS, "mnist", (mirror.url,))
    serve = threading.Thread(target=mirror.server.serve_forever, args=(0.01,))
    serve.start()
    yield mirror
    mirror.server.shutdown()
    mirror.server.server_close()
    serve.join()


def place(root: Path, content: dict[str, bytes]) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, data in content.items():
        (raw / name).write_bytes(data)
    return raw


def contents(root: Path) -> dict[str, bytes]:
    files = (root / "MNIST" / "raw").iterdir()
    return {f.name: f.read_bytes() for f in files if f.suffix != ".lock"}


def check_tiny(images: Images) -> None:
    assert np.array_equal(images.pixels[:, 0].numpy(), PIXELS)
    assert images.labels.tolist() == [3, 1, 4, 1, 5]


@pytest.mark.parametrize("packed", [False, True])
def test_files_at_hand_are_read_and_left_alone(tmp_path: Path, tiny, packed: bool):
    given = {f"{k}.gz": gzip.compress(v) for k, v in TINY.items()} if packed else TINY
    raw = place(tmp_path, given)
    raw.chmod(0o555)
    check_tiny(load("mnist", "train", root=tmp_path))
    raw.chmod(0o755)
    assert {f.name: f.read_bytes() for f in raw.iterdir()} == given


def test_root_is_the_variable_by_default(tmp_path: Path, tiny, monkeypatch):
    place(tmp_path, TINY)
    monkeypatch.setenv("LATENT_SCATTERING_DATA", str(tmp_path))
    check_tiny(load("mnist", "train"))


def test_download_once(tmp_path: Path, mirror: Mirror):
    for _ in range(2):
        check_tiny(load("mnist", "train", root=tmp_path))
    assert mirror.asked == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    assert contents(tmp_path) == mirror.files


def test_download_of_what_a_server_decompressed(tmp_path: Path, mirror: Mirror):
    mirror.files = {f"{k}.gz": v for k, v in TINY.items()}
    check_tiny(load("mnist", "train", root=tmp_path))
    check_tiny(load("mnist", "train", root=tmp_path))


def test_first_mirror_down(tmp_path: Path, mirror: Mirror, monkeypatch):
    nowhere = idx.MIRRORS["fashion-mnist"]
    monkeypatch.setitem(idx.MIRRORS, "mnist", (*nowhere, mirror.url))
    check_tiny(load("mnist", "train", root=tmp_path))


def test_mirror_without_the_file(tmp_path: Path, mirror: Mirror):
    del mirror.files[f"{LABELS}.gz"]
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\[.gz\].*HTTPError"):
        load("mnist", "train", root=tmp_path)


def test_mirror_with_altered_content(tmp_path: Path, mirror: Mirror):
    altered = TINY[IMAGES][:-1] + b"!"
    mirror.files[f"{IMAGES}.gz"] = gzip.compress(altered)
    found, expected = (hashlib.sha256(c).hexdigest() for c in (altered, TINY[IMAGES]))
    with pytest.raises(DataError, match=f"{found[:12]}…, not {expected[:12]}…"):
        load("mnist", "train", root=tmp_path)
    assert contents(tmp_path) == {}


def test_interrupted_download_is_tried_again(tmp_path: Path, mirror: Mirror):
    mirror.cut_short = 1
    check_tiny(load("mnist", "train", root=tmp_path))
    assert mirror.asked == [f"{IMAGES}.gz"] * 2 + [f"{LABELS}.gz"]


def test_interrupted_downloads_leave_nothing(tmp_path: Path, mirror: Mirror):
    mirror.cut_short = 2
    with pytest.raises(DataError, match=r"\(127\.0\.0\.1:\d+: \w+\); put it there"):
        load("mnist", "train", root=tmp_path)
    assert contents(tmp_path) == {}
    check_tiny(load("mnist", "train", root=tmp_path))


def test_what_a_killed_download_left_is_replaced(tmp_path: Path, mirror: Mirror):
    raw = place(tmp_path, {f".{IMAGES}.gz.part": b"half"})
    check_tiny(load("mnist", "train", root=tmp_path))
    assert not list(raw.glob(".*.part"))


def test_two_at_once_download_once(tmp_path: Path, mirror: Mirror):
    with ThreadPoolExecutor(4) as pool:
        both = [pool.submit(load, "mnist", "train", root=tmp_path) for _ in range(4)]
        for images in both:
            check_tiny(images.result())
    assert sorted(mirror.asked) == [f"{IMAGES}.gz", f"{LABELS}.gz"]


def test_no_network_and_no_file(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        load("mnist", "train", root=tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "MNIST" / "raw" / IMAGES))
    assert "ConnectionError" in message
    assert "LATENT_SCATTERING_DATA to the folder that has MNIST/raw" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", [IMAGES, f"{IMAGES}.gz"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: c[:-1], r"truncated \(3,935 of 3,936 bytes\)"),
        (lambda c: c[:9], "truncated"),
        (lambda c: b"", "not an IDX file"),
        (lambda c: b"<html>" + c, "not an IDX file"),
        (lambda c: c[:-1] + b"!", "altered"),
        (lambda c: c + b"!", "altered"),
    ],
)
def test_damaged_file(tmp_path: Path, mirror: Mirror, name, damage, reason):
    content = damage(TINY[IMAGES])
    given = {name: gzip.compress(content) if name.endswith(".gz") else content}
    raw = place(tmp_path, given)
    with pytest.raises(DataError, match=f"{reason}.*; delete it to download it again"):
        load("mnist", "train", root=tmp_path)
    assert {f.name: f.read_bytes() for f in raw.iterdir()} == given
    assert mirror.asked == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: c[:-20], "truncated"),
        (lambda c: c[:10] + b"\xff" + c[11:], "damaged"),
        (lambda c: c[:-8] + bytes(8), "damaged"),
    ],
)
def test_damaged_gzip(tmp_path: Path, tiny, damage, reason):
    place(tmp_path, {f"{IMAGES}.gz": damage(gzip.compress(TINY[IMAGES]))})
    with pytest.raises(DataError, match=reason) as caught:
        load("mnist", "train", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_full_disk_leaves_nothing(tmp_path: Path, mirror: Mirror, monkeypatch):
    def fill(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", fill)
        with pytest.raises(DataError, match="No space left on device"):
            load("mnist", "train", root=tmp_path)
    assert contents(tmp_path) == {}
    check_tiny(load("mnist", "train", root=tmp_path))


def test_file_appears_as_a_whole(tmp_path: Path, mirror: Mirror, monkeypatch):
    write = Path.write_bytes
    written = []

    def spy(self: Path, content: bytes) -> int:
        written.append(self.name)
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", spy)
    check_tiny(load("mnist", "train", root=tmp_path))
    assert len(written) == 2
    assert not set(written) & set(contents(tmp_path))


def test_folder_that_cannot_be_made(tmp_path: Path, mirror: Mirror):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataError, match="LATENT_SCATTERING_DATA to another folder"):
        load("mnist", "train", root=file)
    assert mirror.asked == []


def test_file_that_cannot_be_read(tmp_path: Path, tiny, monkeypatch):
    place(tmp_path, TINY)

    def refuse(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        load("mnist", "train", root=tmp_path)


# --- polygon5 --------------------------------------------------------------------


def test_many_are_made_by_several_processes_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENT_SCATTERING_CACHE", str(tmp_path))
    few = load("polygon5-8", "test", n=150).pixels
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(polygon5, "MANY", 1)
    many = load("polygon5-8", "test", n=150)
    assert torch.equal(many.pixels, few)
    (kept,) = (f for f in (tmp_path / "pixels").iterdir() if f.is_dir())
    assert np.load(kept / "pixels.npy").shape == (150, 3, 8, 8)
    monkeypatch.setattr(polygon5, "images", None)  # they are not made again
    assert torch.equal(load("polygon5-8", "test", n=70).pixels, few[:70])
    with pytest.raises(TypeError):
        load("polygon5-8", "train", n=70)


@pytest.mark.parametrize(
    ("name", "split", "n", "digest"),
    [
        (
            "polygon5-32",
            "train",
            16,
            "b9221a9e126b8ac4ed97f93916b877750d7a269e2773efb3263d3838c14ea012",
        ),
        (
            "polygon5-32",
            "test",
            16,
            "b5f4caf423637d4ac4e5026b462ef2af3b153650a75c5484ba68182d1a9242b2",
        ),
        (
            "polygon5",
            "train",
            2,
            "61d2cb75139f99e0b8d3b4521e2e6669eac25153d1e7a1b59443908d50118681",
        ),
        (
            "polygon5-33",
            "train",
            4,
            "31894fff18b656a5684015da79dae4705b7eef03fd616fd2203c836e613eb3f5",
        ),
    ],
)
def test_polygons_are_the_same_bytes_everywhere(name, split, n, digest):
    images = load(name, split, n=n)
    assert images.labels is None
    assert images.digest == digest


def test_polygon_size():
    assert load("polygon5", "test", n=1).pixels.shape == (1, 3, 128, 128)
    assert load("polygon5-8", "test", n=1).pixels.shape == (1, 3, 8, 8)
    assert load("polygon5-512", "test", n=1).pixels.shape == (1, 3, 512, 512)
    small, large = (
        load(f"polygon5-{size}", "train", n=20).pixels.double() for size in (32, 128)
    )
    pooled = torch.nn.functional.avg_pool2d(large, 4)
    assert (pooled - small).abs().max() < 8  # the same polygons, sampled four times


def test_polygon_i_depends_on_i_alone():
    all_of_them = polygon5.images(200, 16, split="train")
    assert np.array_equal(polygon5.images(3, 16, split="train"), all_of_them[:3])
    one = polygon5.images(1, 16, split="train", start=150)
    assert np.array_equal(one, all_of_them[150:151])


def test_streams_differ():
    streams = [
        polygon5.polygons(2000, split=split, seed=seed).reshape(2000, 10)
        for split, seed in itertools.product(("train", "test"), (0, 1))
    ]
    assert len(np.unique(np.concatenate(streams), axis=0)) == 8000


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    start=st.integers(0, 65_000),
    split=st.sampled_from(["train", "test"]),
)
def test_polygons_are_convex_and_large(seed: int, start: int, split: str):
    vertices = polygon5.polygons(40, split=split, seed=seed, start=start)
    assert vertices.min() >= 0 and vertices.max() < polygon5.GRID
    for polygon in vertices.tolist():
        corners = list(dict.fromkeys(map(tuple, polygon)))
        assert 3 <= len(corners) <= 5
        # Each side has all other corners strictly on its left.
        for a, b in itertools.pairwise([*corners, corners[0]]):
            assert all(turn(a, b, c) > 0 for c in corners if c not in (a, b))
        fan = itertools.pairwise(corners[1:])
        twice_area = sum(turn(corners[0], b, c) for b, c in fan)
        assert twice_area >= polygon5.GRID**2 / 8


def test_coverage_counts_samples():
    size = 8
    side = size * polygon5.SAMPLES
    vertices = polygon5.polygons(30, split="train")
    samples = polygon5.GRID * (2 * np.arange(side) + 1)
    x, y = samples[None, :], samples[:, None]
    inside, on_edge = [], []
    for polygon in 2 * side * vertices:
        edges = [
            turn(a, b, (x, y))
            for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True)
            if (a != b).any()
        ]
        inside.append(np.all([e > 0 for e in edges], axis=0))
        on_edge.append(np.all([e >= 0 for e in edges], axis=0))
    least, most = (
        np.reshape(count, (30, size, 16, size, 16)).sum(axis=(2, 4))
        for count in (inside, on_edge)
    )
    coverage = polygon5._coverage(vertices, size)
    assert (least <= coverage).all() and (coverage <= most).all()
    assert (least == most).mean() > 0.99  # so this is (almost) an equality


def test_coverage_tiles_the_plane():
    # The sides and the diagonal of this square go through sample points (256 is half
    # a sample): those on its lower sides belong to it, those on its upper ones do not.
    low, high = polygon5.GRID // 4 + 256, polygon5.GRID * 3 // 4 + 256
    a, b, c, d = (low, low), (high, low), (high, high), (low, high)
    shapes = np.array([[a, b, c, d, d], [a, b, c, c, c], [a, c, d, d, d]])
    square, *halves = polygon5._coverage(shapes, 8).astype(int)
    expected = np.zeros((8, 8), int)
    expected[2:6, 2:6] = 256
    assert np.array_equal(square, expected)
    assert np.array_equal(sum(halves), expected)


def test_colours_are_those_of_the_polygon_and_the_background():
    images = polygon5.images(30, 64, split="test")
    vertices = polygon5.polygons(30, split="test")
    colours = polygon5.colours(30, split="test")
    coverage = polygon5._coverage(vertices, 64)
    for image, covered, (background, fill) in zip(
        images, coverage, colours, strict=True
    ):
        outside, inside = image[:, covered == 0].T, image[:, covered == 256].T
        assert (outside == background).all() and (inside == fill).all()
        weight = covered / 256
        mixed = (1 - weight) * background[:, None, None] + weight * fill[:, None, None]
        assert np.array_equal(image, np.floor(mixed + 0.5))


def test_vertices_and_colours_are_uniform():
    # Each is beyond 4.5 standard deviations once in 150,000; the seed is fixed.
    n = 3000
    vertices = polygon5.polygons(n, split="train")
    counts = [len(np.unique(polygon, axis=0)) for polygon in vertices]
    for v in (3, 4, 5):
        assert abs(counts.count(v) - n / 3) < 4.5 * (n * 2 / 9) ** 0.5
    colours = polygon5.colours(n, split="train").reshape(n, 6).astype(float)
    deviation = (255 * 257 / 12) ** 0.5
    assert (np.abs(colours.mean(axis=0) - 127.5) < 4.5 * deviation / n**0.5).all()
    assert (np.abs(np.corrcoef(colours.T) - np.eye(6)) < 4.5 / n**0.5).all()


def turn(a, b, c):
    """Twice the area of a triangle, positive when c is on the left of ab."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
