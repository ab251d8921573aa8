"""Bilinear upsampling and convolution in one, with fewer multiplications.

A convolution of an upsampled image mixes channels at every pixel, though only a quarter
of them are new. Mixing is linear, so it can come first, at the small size: once for
each of the k² taps of the kernel. Upsampling, padding, shifting and summing up these
k² mixtures are then fixed linear maps of rows and columns, the same for all channels.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class UpsampledConvolution(nn.Conv2d):
    """`nn.Upsample` (×2, bilinear), `nn.ReflectionPad2d` and `nn.Conv2d` in one.

    Its parameters are those of the convolution, with a kernel of odd size k below 4n.
    With C channels in and C' out, an image of n × n takes k² n² C C' multiplications to
    mix the channels, and 2k²n³C' + 4kn³C' for the columns and the rows, instead of
    4k² n² C C'.
    """

    def forward(self, x: Float[Tensor, "batch C M N"]) -> Tensor:
        """Return the convolved images of twice the size, channels last in memory."""
        B, C, M, N = x.shape
        k, out = self.kernel_size[0], self.out_channels
        rows, columns = (upsampled_taps(n, k, x.dtype, x.device) for n in (M, N))
        # Of every tap (column l, row k): a mixture of channels.
        mixtures = self.weight.permute(1, 3, 2, 0).reshape(C, k * k * out)
        y = x.permute(0, 2, 3, 1).reshape(B * M * N, C) @ mixtures
        y = columns @ y.view(B * M, N * k, k * out)
        y = y.view(B, M, 2 * N, k, out).permute(0, 1, 3, 2, 4)
        y = rows @ y.reshape(B, M * k, 2 * N * out)
        y = y.view(B, 2 * M, 2 * N, out)
        if self.bias is not None:
            y = y + self.bias.to(y)  # which autocast leaves in float32
        return y.permute(0, 3, 1, 2)


@torch.compiler.assume_constant_result  # or torch.compile makes it anew in every step
def upsampled_taps(
    n: int, k: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "twice_n n_times_k"]:
    """Return what maps the k taps of n pixels to sums at 2n pixels.

    Entry (p, i k + a) is the weight of pixel i in pixel p + a − ⌊k/2⌋ of the upsampled
    line, which is reflected at its ends.
    """
    return _taps(n, k, dtype, device)


@cache
def _taps(n: int, k: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        line = torch.eye(n)[None]
        upsampled = F.interpolate(line, scale_factor=2, mode="linear")
        padded = F.pad(upsampled, (k // 2, k // 2), mode="reflect")[0].T
        taps = torch.stack([padded[a : a + 2 * n] for a in range(k)], dim=2)
    return taps.reshape(2 * n, n * k).to(device, dtype)
