"""What bounds each stage, and how near to the machine's limits it is.

    python -m benchmarks.roofline [--seconds 60] [--threads 2] [--json FILE]

The limits are measured, not looked up: a product of two square matrices, and a copy of
an array that no cache holds. The work of a stage is that of its products and transforms
(5 N log₂ N operations for a complex Fourier transform of N numbers), and the least that
it must move is what it reads and writes once: operations for each byte then say which
of the two limits binds it. On a GPU the generator is trained in bfloat16, and its limit
is that of such products.
"""

import math
from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import side_by_side
from latent_scattering.generator import Generator, architecture
from latent_scattering.scattering import Scattering2D

CUDA = side_by_side.DEVICE.type == "cuda"
SIDE, J, D, B = 128, 4, 512, 576  # of Angles & Mallat; columns of a pass
IMAGES = 128 if CUDA else 4
HALF = torch.bfloat16 if CUDA else torch.float32


def product(dtype: torch.dtype, budget: float) -> float:
    """Operations a second of a matrix product."""
    n = 8192 if CUDA else 2048
    a, b = (torch.randn(n, n, device=side_by_side.DEVICE).to(dtype) for _ in range(2))
    a @ b
    seconds = side_by_side.medians({"product": lambda: a @ b}, budget)
    return 2 * n**3 / seconds["product"]


def copy(budget: float) -> float:
    """Bytes a second of a copy, read and written."""
    a = torch.zeros(2**28 if CUDA else 2**26, device=side_by_side.DEVICE)
    b = torch.empty_like(a).copy_(a)
    seconds = side_by_side.medians({"copy": lambda: b.copy_(a)}, budget)
    return 2 * 4 * len(a) / seconds["copy"]


def transforms(J: int, L: int, side: int) -> float:
    """Operations of the Fourier transforms of one channel of an image."""
    padded = (side // 2**J + 2) * 2**J
    sizes = [padded] + [padded] * L  # the image, and |x∗ψ| of the finest scale back
    sizes += [padded // 2**j for j in range(1, J) for _ in range(L)]
    for j1 in range(J - 1):
        sizes += [padded // 2**j1] * L
        sizes += [padded // 2**j2 for j2 in range(j1 + 1, J) for _ in range(L**2)]
    return sum(5 * n * n * math.log2(n * n) for n in sizes)


def scattering() -> tuple:
    S = Scattering2D(J, (SIDE, SIDE)).to(side_by_side.DEVICE)
    x = torch.rand(3 * IMAGES, SIDE, SIDE, device=side_by_side.DEVICE)
    moved = 4 * (x.numel() + len(x) * math.prod(S.output_shape))
    return partial(S, x), len(x) * transforms(J, 8, SIDE), moved, torch.float32


def whitening() -> tuple:
    """A pass of the Krylov iteration: rows times a block, and the rows times that."""
    p = 80_064 if CUDA else 10_416
    rows = torch.randn(128 * IMAGES, p, device=side_by_side.DEVICE)
    block = torch.randn(p, B, device=side_by_side.DEVICE)
    work = 4 * B * rows.numel()
    return lambda: rows.T @ (rows @ block), work, 4 * rows.numel(), torch.float32


def training() -> tuple:
    shape = (3, SIDE, SIDE)
    network = Generator(D, shape, **architecture(shape)._asdict(), seed=0)
    network.to(side_by_side.DEVICE, memory_format=torch.channels_last)
    z = torch.randn(IMAGES, D, device=side_by_side.DEVICE)

    def step(network: nn.Module) -> None:
        with torch.autocast(z.device.type, HALF, enabled=CUDA):
            network(z).abs().mean().backward()

    counter = FlopCounterMode(display=False)
    with counter:
        step(network)
    weights = sum(w.numel() for w in network.parameters())
    moved = 3 * 4 * weights + 4 * IMAGES * math.prod(shape)
    return partial(step, network), counter.get_total_flops(), moved, HALF


def main() -> None:
    given = side_by_side.arguments(__doc__, 60)
    budget = given.seconds / 6
    peaks = {dtype: product(dtype, budget) for dtype in {torch.float32, HALF}}
    bandwidth = copy(budget)
    table = []
    for name, stage, images in [
        ("scattering", scattering, IMAGES),
        ("whitening, a pass", whitening, 128 * IMAGES),
        ("generator, a step", training, IMAGES),
    ]:
        run, work, moved, dtype = stage()
        with torch.set_grad_enabled(stage is training):
            run()
            seconds = side_by_side.medians({name: run}, budget)[name]
        by_memory = work / moved < peaks[dtype] / bandwidth
        table.append(
            {
                "stage": name,
                "images/s": images / seconds,
                "operations, GFLOP/s": work / seconds / 1e9,
                "of the product's": 100 * work / seconds / peaks[dtype],
                "GFLOP an image": work / images / 1e9,
                "operations a byte": work / moved,
                "bound by": "memory" if by_memory else "arithmetic",
            }
        )
        del run
    limits = {str(dtype): peak for dtype, peak in peaks.items()}
    limits = ", ".join(f"{k[6:]}: {v / 1e9:,.0f} GFLOP/s" for k, v in limits.items())
    given.title += f" ({limits}; copy: {bandwidth / 1e9:,.0f} GB/s)"
    formats = ("", ".1f", ".0f", ".0f", ".3g", ".3g", "")
    side_by_side.report(given, table, table, formats)


if __name__ == "__main__":
    main()
