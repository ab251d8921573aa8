"""How far reconstructed images are from the originals."""

import math

from jaxtyping import Float
from torch import Tensor

PEAK = 2.0  # the range of images on [-1, 1]


def psnr(x: Float[Tensor, "n c M N"], y: Float[Tensor, "n c M N"]) -> float:
    """Return the peak signal-to-noise ratio in dB, 10 log₁₀(2² / MSE).

    The mean squared error is that of all n images, on [-1, 1], as in the code of
    Angles & Mallat (their Table 1); infinite if x = y. See `psnr_per_image` for what
    is always at least as large on average.
    """
    return psnr_of_mse((x - y).double().square().mean().item())


def psnr_of_mse(mse: float) -> float:
    """Return the PSNR in dB of a mean squared error of images on [-1, 1]."""
    return 10 * math.log10(PEAK**2 / mse) if mse else math.inf


def psnr_per_image(
    x: Float[Tensor, "n c M N"], y: Float[Tensor, "n c M N"]
) -> Float[Tensor, " n"]:
    """Return each image's own PSNR in dB, images on [-1, 1]."""
    mse = (x - y).double().square().flatten(1).mean(1)
    return 10 * (PEAK**2 / mse).log10()
