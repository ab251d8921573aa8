"""Polygon5: one filled convex polygon of three to five vertices, in random colours.

Angles & Mallat (2018, section 4) say of theirs: "random convex polygons of at most five
vertices, with random colors". No public generator of it is known, so this is our own:

1. the number of vertices v is uniform in {3, 4, 5};
2. the vertices are v independent uniform points of the square, redrawn (all of them)
   until they are in convex position and their polygon covers at least 1/16 of the
   image (smaller ones would be a few pixels at 32×32);
3. the colours of the polygon and of the background are independent and uniform in
   {0, …, 255}³ (in about one image in 80 they differ by less than 32 in each channel);
4. a pixel is the mean of the two colours, weighted by the share of its 16×16 sample
   points that lie in the polygon, rounded half up.

Image i depends on the seed, the split and i alone, and its polygon is the same at each
size. The random words are numpy's Philox with the key (seed, split and draw) and the
counter i; all that follows is integer arithmetic, so that the bytes are the same on any
machine. (Only the order of the vertices comes from `arctan2`, whose error is some 2⁻⁵⁰;
directions between 18-bit integer vectors differ by at least 2⁻³⁸.)
"""

from collections.abc import Iterator
from functools import partial

import joblib
import numpy as np
from jaxtyping import Int64, UInt8, UInt64
from numpy import ndarray

from latent_scattering import digest
from latent_scattering.datasets import kept

COUNTS = {"train": 65_536, "test": 16_384}
SIZES = range(8, 513)
GRID = 1 << 16
"""Vertices have integer coordinates in 0 … GRID - 1, GRID being the image's side."""
SAMPLES = 16
"""Sample points along each side of a pixel."""
MANY = 1 << 27
"""Bytes; as many or more are made by all cores, once, and kept in a file."""
_WORDS = 8
_BATCH = 64


def read(n: int, size: int, *, split: str) -> UInt8[ndarray, "n 3 size size"]:
    """Return the first n images of a split of the data set proper.

    From 128 MiB on they are a memory map (see `kept.pixels`).
    """
    if n * 3 * size**2 < MANY:
        return images(n, size, split=split)
    name = f"polygon5 {split}"
    identity = {"name": name, "code": digest.of_package([__name__])}
    make = partial(_pieces, size=size, split=split)
    return kept.pixels(identity, make, n, size, label=name)


def _pieces(
    n: int, size: int, split: str
) -> Iterator[tuple[int, UInt8[ndarray, "_ 3 size size"]]]:
    starts = range(0, n, _BATCH)
    workers = joblib.Parallel(n_jobs=-1, return_as="generator")
    made = workers(
        joblib.delayed(images)(min(_BATCH, n - start), size, split=split, start=start)
        for start in starts
    )
    return zip(starts, made, strict=True)


def images(
    n: int, size: int, *, split: str, seed: int = 0, start: int = 0
) -> UInt8[ndarray, "n 3 size size"]:
    """Return the images ``start … start + n - 1`` of a split, in RGB.

    Parameters
    ----------
    n
        How many.
    size
        Side of the image in pixels, one of `SIZES`.
    split
        ``"train"`` or ``"test"``: two disjoint streams.
    seed
        0 … 2⁶⁴ - 1; the data set proper is that of 0.
    """
    pixels = np.empty((n, 3, size, size), np.uint8)
    for first in range(0, n, _BATCH):
        batch = pixels[first : first + _BATCH]
        m, i = len(batch), start + first
        coverage = _coverage(polygons(m, split=split, seed=seed, start=i), size)
        _paint(batch, coverage, colours(m, split=split, seed=seed, start=i))
    return pixels


def polygons(
    n: int, *, split: str, seed: int = 0, start: int = 0
) -> Int64[ndarray, "n 5 2"]:
    """Return the vertices (x, y), in 0 … `GRID` - 1, in order around each polygon.

    The last vertex of a triangle or quadrilateral is repeated to make five.
    """
    count = 3 + _words(n, 0, split, seed, start)[:, 1] % np.uint64(3)
    vertices = np.empty((n, 5, 2), np.int64)
    pending = np.ones(n, bool)
    draw = 0
    while pending.any():
        draw += 1
        words = _words(n, draw, split, seed, start)
        points = np.stack([words, words >> np.uint64(16)], axis=-1) % np.uint64(GRID)
        for v in (3, 4, 5):
            asked = np.flatnonzero(pending & (count == v))
            ordered = _around(points[asked, :v].astype(np.int64))
            convex = _is_convex_and_large(ordered)
            taken = asked[convex]
            vertices[taken, :v] = ordered[convex]
            vertices[taken, v:] = ordered[convex, -1:]
            pending[taken] = False
    return vertices


def colours(
    n: int, *, split: str, seed: int = 0, start: int = 0
) -> UInt8[ndarray, "n 2 3"]:
    """Return the colours, RGB, of each background (first) and polygon (second)."""
    word = _words(n, 0, split, seed, start)[:, 0]
    shifts = 8 * np.arange(6, dtype=np.uint64)
    return (word[:, None] >> shifts).astype(np.uint8).reshape(n, 2, 3)


def _words(
    n: int, draw: int, split: str, seed: int, start: int
) -> UInt64[ndarray, "n 8"]:
    # Two splits for each draw: no two of them share a key. numpy's generators make
    # four words at each step of their counter.
    key = np.array([seed, 2 * draw + list(COUNTS).index(split)], np.uint64)
    stream = np.random.Philox(key=key, counter=start * _WORDS // 4)
    return stream.random_raw(n * _WORDS).reshape(n, _WORDS)


def _around(points: Int64[ndarray, "n v 2"]) -> Int64[ndarray, "n v 2"]:
    v = points.shape[1]
    from_centre = v * points - points.sum(axis=1, keepdims=True)
    angle = np.arctan2(from_centre[..., 1], from_centre[..., 0])
    order = np.argsort(angle, axis=1, kind="stable")
    return np.take_along_axis(points, order[..., None], axis=1)


def _is_convex_and_large(points: Int64[ndarray, "n v 2"]) -> ndarray:
    side = np.roll(points, -1, axis=1) - points
    turn = _cross(side, np.roll(side, -1, axis=1))
    twice_area = _cross(points, np.roll(points, -1, axis=1)).sum(axis=1)
    return (turn > 0).all(axis=1) & (twice_area >= 2 * GRID**2 // 16)


def _cross(a: ndarray, b: ndarray) -> ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _coverage(vertices: Int64[ndarray, "n 5 2"], size: int) -> ndarray:
    """Return how many of each pixel's 256 sample points lie in the polygon.

    In a convex polygon the samples of a row form one interval; its two ends are where
    the row crosses the polygon's sides. Lengths are in units of 1 / (2·GRID·side) of
    the image: vertices and sample points are then integers, below 2³⁰, and all
    products fit 64 bits.
    """
    n, side = len(vertices), SAMPLES * size
    a = 2 * side * vertices
    b = np.roll(a, -1, axis=1)
    down = (b[..., 1] < a[..., 1])[..., None]
    (x0, y0), (x1, y1) = (
        np.moveaxis(np.where(down, p, q), 2, 0)[..., None] for p, q in ((b, a), (a, b))
    )  # each (n, 5, 1), y0 <= y1
    y = GRID * (2 * np.arange(side) + 1)
    crossed = (y0 <= y) & (y < y1)
    rise = np.maximum(y1 - y0, 1)
    # The first sample s at or after the crossing x: s = ⌈(x / GRID - 1) / 2⌉.
    x_rise = x0 * rise + (x1 - x0) * (y - y0)
    sample = -((GRID * rise - x_rise) // (2 * GRID * rise))
    right = np.where(crossed, sample, 0).max(axis=1)
    left = np.minimum(np.where(crossed, sample, side).min(axis=1), right)

    # The samples from `left` on, less those from `right` on, as the running sum over a
    # row of pixels: a row of samples adds 16 - r to one pixel and r more to the next.
    width = size + 2
    row = np.arange(n)[:, None] * size + np.arange(side) // SAMPLES
    where, step = [], []
    for end, sign in ((left, 1), (right, -1)):
        pixel, r = np.divmod(end, SAMPLES)
        where += [row * width + pixel, row * width + pixel + 1]
        step += [sign * (SAMPLES - r), sign * r]
    total = np.bincount(np.ravel(where), np.ravel(step), minlength=n * size * width)
    steps = total.reshape(n, size, width)[..., :size]
    return np.cumsum(steps, axis=-1).astype(np.uint16)


def _paint(
    pixels: UInt8[ndarray, "n 3 M N"], coverage: ndarray, colours: ndarray
) -> None:
    whole = np.uint16(SAMPLES**2)
    background, fill = np.moveaxis(colours.astype(np.uint16), 1, 0)[..., None, None]
    covered = coverage[:, None]
    # At most 255·256 + 128, which 16 bits hold.
    mixed = background * (whole - covered) + fill * covered + whole // np.uint16(2)
    pixels[:] = mixed // whole
