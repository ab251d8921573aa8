"""The scales of pixels: bytes, [0, 1] for the scattering, [-1, 1] for the generator."""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor


def to_unit(pixels: UInt8[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Return pixels in [0, 1], the input of the scattering (black is 0)."""
    return pixels.to(torch.float32) / 255


def to_signed(pixels: UInt8[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Return pixels in [-1, 1], the target of the generator (black is -1)."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_pixels(images: Float32[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """Return the bytes nearest to images in [-1, 1], which are clipped to that."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
