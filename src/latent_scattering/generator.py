"""The generator G: codes z to images, a network of convolutions and upsamplings."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from latent_scattering.errors import ParameterError
from latent_scattering.upsampling import UpsampledConvolution

Variant = Literal["code", "text"]
CHUNK = 256  # codes that are decoded at once where no gradient is wanted


class Architecture(NamedTuple):
    """The sizes of a generator's layers."""

    widths: tuple[int, ...]
    """Channels of the first layer and after each block, which doubles the sides."""
    kernel_size: int


def architecture(shape: tuple[int, int, int], last_width: int = 32) -> Architecture:
    """Return the papers' sizes for images of a shape (c, M, N).

    The sides are halved while they are even and stay at least 4 (7 if one is below
    64), and the widths, `last_width` at the image, are doubled as often. That gives

    * 128×128: 4×4×1024, then 512, 256, 128, 64, 32, kernel 7 (Angles & Mallat,
      section 4, with the five blocks of their code);
    * 28×28: 7×7×128, then 64, 32, kernel 3 (Ziomek & Farrahi, section 3, where the
      first size is not stated); 32×32: the same from 8×8.
    """
    _, M, N = shape
    least, kernel_size = (4, 7) if min(M, N) >= 64 else (7, 3)
    blocks = 0
    while M % 2 == N % 2 == 0 and min(M, N) // 2 >= least:
        M, N, blocks = M // 2, N // 2, blocks + 1
    widths = tuple(last_width << i for i in range(blocks, -1, -1))
    return Architecture(widths, kernel_size)


class Generator(nn.Module):
    """The convolutional network that inverts the embedding (Angles & Mallat, §4).

    A fully connected layer gives the first, small array of channels; each block then
    upsamples it bilinearly by 2 and convolves it; a last convolution gives the image.

    Parameters
    ----------
    d
        Dimension of the codes.
    shape
        (c, M, N) of the images.
    variant
        Two networks are described under one name:

        * ``"code"``, of the authors' public code of 2018: no biases, batch norm
          (eps 10⁻³) after every layer, then ReLU, or tanh at the image. Initial
          weights N(0, .02²), those of batch norm N(1, .02²). The code has batch norm's
          momentum at 0.9, which in PyTorch's convention makes the statistics used in
          evaluation nine tenths the newest batch, so the images vary by chance from
          one epoch to the next; ours is PyTorch's default, 0.1.
        * ``"text"``, of the paper: biases, no batch norm, G = ρW … ρW₁ρW₀ with a ReLU
          ρ at the image too. That can only give images ≥ 0, so it is taken to
          give them on [0, 1] (not bounded above) and mapped here to [-1, 1] by
          2ρ − 1. Gradients pass this last ρ unchanged ("straight through"): with
          ρ's own, the L¹ loss on dark images turns all pixels off within a few steps,
          and no gradient is left to turn one on. Initial weights: He's, no biases.

        The text has J upsamplings, which do not lead from 4 to 128 pixels at its
        J = 4; both variants have the code's, as many as lead to the image. Padding is
        by reflection, without repeating the edge.
    widths
        Channels of the first layer and after each block. Each block doubles the
        sides, so M and N must be multiples of 2^(len(widths) − 1).
    kernel_size
        Of all convolutions: odd, and below twice the smallest side it is applied to.
    seed
        Of the initial weights.

    Raises
    ------
    ParameterError
        If the sizes do not match, or a value is out of range.
    """

    def __init__(
        self,
        d: int,
        shape: tuple[int, int, int],
        *,
        variant: Variant = "code",
        widths: Sequence[int],
        kernel_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        _check(d, shape, variant, widths, kernel_size)
        channels, M, N = shape
        scale = 2 ** (len(widths) - 1)
        first, last = widths[0], widths[-1]
        self.start = (first, M // scale, N // scale)
        self.variant = variant
        code = variant == "code"

        def normalised(layer: nn.Module, width: int) -> list[nn.Module]:
            return [layer, nn.BatchNorm2d(width, eps=1e-3)] if code else [layer]

        # Initial weights are drawn below, from the seed alone.
        self.linear = skip_init(
            nn.Linear, d, first * self.start[1] * self.start[2], bias=not code
        )
        unflatten = nn.Unflatten(1, self.start)
        self.first = nn.Sequential(*normalised(unflatten, first), nn.ReLU())
        blocks: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            convolution = skip_init(
                UpsampledConvolution, c_in, c_out, kernel_size, bias=not code
            )
            blocks.append(nn.Sequential(*normalised(convolution, c_out), nn.ReLU()))
        self.blocks = nn.Sequential(*blocks)
        self.image = nn.Sequential(
            nn.ReflectionPad2d(kernel_size // 2),
            *normalised(
                skip_init(nn.Conv2d, last, channels, kernel_size, bias=not code),
                channels,
            ),
        )
        self._initialise(torch.Generator().manual_seed(seed))

    def forward(self, z: Float[Tensor, "batch d"]) -> Float[Tensor, "batch c M N"]:
        """Return images on [-1, 1] (``"text"``: on [-1, ∞))."""
        x = self.image(self.blocks(self.first(self.linear(z))))
        if self.variant == "code":
            return x.tanh()
        return 2 * (x + (x.relu() - x).detach()) - 1

    @torch.no_grad()
    def share_of_zeros(self, z: Float[Tensor, "n d"]) -> float:
        """Return the share of activations that are exactly zero, in [0, 1].

        Over all outputs of the hidden layers' ReLUs (not the image) and all codes, in
        the network's present mode. Angles & Mallat, section 4: "about 70 %".
        """
        zeros, total = 0, 0

        def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
            nonlocal zeros, total
            zeros += int((output == 0).sum())
            total += output.numel()

        relus = [m for m in self.modules() if isinstance(m, nn.ReLU)]
        hooks = [relu.register_forward_hook(count) for relu in relus]
        try:
            for chunk in z.split(CHUNK):
                self(chunk.to(self.linear.weight))
        finally:
            for hook in hooks:
                hook.remove()
        return zeros / total

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1, 0.02, generator=generator)
            elif isinstance(layer, nn.Linear | nn.Conv2d):
                if layer.bias is None:
                    nn.init.normal_(layer.weight, 0, 0.02, generator=generator)
                else:
                    nn.init.kaiming_normal_(
                        layer.weight, nonlinearity="relu", generator=generator
                    )
                    nn.init.zeros_(layer.bias)


def _check(
    d: int,
    shape: tuple[int, int, int],
    variant: str,
    widths: Sequence[int],
    kernel_size: int,
) -> None:
    if variant not in get_args(Variant):
        raise ParameterError(
            f"variant={variant!r}: not one of {', '.join(get_args(Variant))}"
        )
    if d < 1 or not widths or min(*shape, *widths) < 1:
        raise ParameterError(
            f"d={d}, shape={shape}, widths={tuple(widths)}: all must be at least 1"
        )
    M, N = shape[1:]
    blocks = len(widths) - 1
    scale = 2**blocks
    if M % scale or N % scale:
        raise ParameterError(
            f"images of {M}×{N}: {len(widths)} widths mean {blocks} doublings, which "
            f"allow multiples of {scale}; see `architecture`"
        )
    smallest = min(M, N) if not blocks else 2 * min(M, N) // scale
    if kernel_size < 1 or kernel_size % 2 == 0 or kernel_size // 2 >= smallest:
        raise ParameterError(
            f"kernel_size={kernel_size}: odd values from 1 to {2 * smallest - 1} are "
            f"allowed where the first convolution sees a side of {smallest}"
        )
