"""Digits: the 1,797 handwritten digits that ship inside scikit-learn, at 32×32.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin &
Kaynak, 1998): 8×8 counts of ink in 0 … 16, written by 13 people.

The images are enlarged four times by Keys' cubic convolution (a = -1/2, edges
repeated), clipped to 0 … 255 and rounded half to even. The weights are multiples of
2⁻¹⁰, so float64 holds every intermediate value exactly and the bytes are the same on
any machine.

scikit-learn keeps the images in the order in which they were collected: neighbours are
apparently by one writer, though who wrote which was not kept. The split is a fixed
permutation of them: the first 1,437 are for training, the other 360 for testing. So
both parts, and any first n of them, are samples of the same 13 hands, and what is
measured on held-out images (variances of whitened components, normality) tells what was
learnt. Cut by order instead, it would tell the last three writers from the others: the
means of whitened components then lie several times farther from 0. The price: nothing
here tells how well a new writer's digits are reconstructed.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from numpy import ndarray
from sklearn.datasets import load_digits

TRAIN = 1_437
ZOOM = 4


def read(
    split: str,
) -> tuple[UInt8[ndarray, "n 1 32 32"], Int64[ndarray, " n"]]:
    """Return the images and labels (0 … 9) of ``"train"`` or ``"test"``."""
    ink, labels = load_digits(return_X_y=True)
    words = np.random.Philox(key=0).random_raw(len(ink))
    order = np.argsort(words, kind="stable")
    part = order[:TRAIN] if split == "train" else order[TRAIN:]
    enlarge = enlargement(8)
    enlarged = enlarge @ (ink[part].reshape(-1, 8, 8) * (255 / 16)) @ enlarge.T
    pixels = np.rint(enlarged.clip(0, 255)).astype(np.uint8)
    return pixels[:, None], labels[part].astype(np.int64)


def enlargement(size: int) -> Float64[ndarray, "large size"]:
    """Return the matrix that enlarges a line of `size` pixels `ZOOM` times.

    Pixels are intervals: the centre of pixel i of the large line is at
    (i + 1/2) / ZOOM - 1/2 in the small one. Keys (1981), "Cubic convolution
    interpolation for digital image processing", equation 15.
    """
    centre = (np.arange(ZOOM * size) + 0.5) / ZOOM - 0.5
    matrix = np.zeros((ZOOM * size, size))
    for tap in range(-1, 3):
        source = np.floor(centre) + tap
        s = np.abs(centre - source)
        # Products and sums only: a power may be inexact in its last bit.
        near = (1.5 * s - 2.5) * s * s + 1
        far = ((-0.5 * s + 2.5) * s - 4) * s + 2
        weight = np.where(s < 1, near, far)
        column = source.clip(0, size - 1).astype(int)
        matrix[np.arange(ZOOM * size), column] += weight
    return matrix
