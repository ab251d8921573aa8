"""What bounds each stage, and how near to the machine's limits it is.

    python -m benchmarks.roofline [--seconds 60] [--threads 2] [--json FILE]

The limits are measured, not looked up: a product of two square matrices, and a copy of
an array that no cache holds. Against them stand the arithmetic of a stage (of its
products, convolutions and Fourier transforms) and the bytes that its operations read
and write, intermediates included. A stage is bound by the limit that it is nearer to.
What stays in a cache moves faster than the copy, so that more than 100 % of its rate is
possible. On a GPU the generator is trained in bfloat16, and its limit is that of such
products.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks import side_by_side, work
from latent_scattering.generator import Generator, architecture
from latent_scattering.scattering import Scattering2D

CUDA = side_by_side.DEVICE.type == "cuda"
SIDE, J, D = 128, 4, 512  # of Angles & Mallat
P, B = 80_064, D // 2 + 16  # coefficients of an image, columns of a pass of whitening
IMAGES, ROWS = 128 if CUDA else 4, 1024
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


def scattering() -> Callable[[], object]:
    """S_J of colour images."""
    S = Scattering2D(J, (SIDE, SIDE)).to(side_by_side.DEVICE)
    x = torch.rand(IMAGES, 3, SIDE, SIDE, device=side_by_side.DEVICE)
    return partial(S, x)


def whitening() -> Callable[[], object]:
    """A pass of the Krylov iteration: rows times a block, and the rows times that."""
    rows = torch.randn(ROWS, P, device=side_by_side.DEVICE)
    block = torch.randn(P, B, device=side_by_side.DEVICE)
    return lambda: rows.T @ (rows @ block)


def training() -> Callable[[], object]:
    """A step of the generator, that of Adam included."""
    shape = (3, SIDE, SIDE)
    network: nn.Module = Generator(D, shape, **architecture(shape)._asdict(), seed=0)
    network.to(side_by_side.DEVICE, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), fused=True)
    z = torch.randn(IMAGES, D, device=side_by_side.DEVICE)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(z.device.type, HALF, enabled=CUDA):
            loss = network(z).abs().mean()
        loss.backward()
        optimiser.step()

    return step


STAGES = {  # name: what makes it, images a call, its arithmetic
    "scattering": (scattering, IMAGES, torch.float32),
    "whitening, a pass": (whitening, ROWS, torch.float32),
    "generator, a step": (training, IMAGES, HALF),
}


def main() -> None:
    given = side_by_side.arguments(__doc__, 60)
    budget = given.seconds / 6
    peaks = {dtype: product(dtype, budget) for dtype in {torch.float32, HALF}}
    bandwidth = copy(budget)
    table = []
    for name, (stage, images, dtype) in STAGES.items():
        run = stage()
        with torch.set_grad_enabled(stage is training):
            taken = work.count(run)  # and warm-up
            seconds = side_by_side.medians({name: run}, budget)[name]
        of_products = taken.operations / seconds / peaks[dtype]
        of_copy = taken.moved / seconds / bandwidth
        table.append(
            {
                "stage": name,
                "images/s": images / seconds,
                "GFLOP an image": taken.operations / images / 1e9,
                "MB an image": taken.moved / images / 1e6,
                "% of the product's rate": 100 * of_products,
                "% of the copy's rate": 100 * of_copy,
                "bound by": "arithmetic" if of_products > of_copy else "memory",
            }
        )
        del run
    limits = {str(dtype): peak for dtype, peak in peaks.items()}
    limits = ", ".join(f"{k[6:]}: {v / 1e9:,.0f} GFLOP/s" for k, v in limits.items())
    given.title += f" ({limits}; copy: {bandwidth / 1e9:,.0f} GB/s)"
    formats = ("", ",.1f", ",.3g", ",.1f", ".0f", ".0f", "")
    side_by_side.report(given, table, table, formats)


if __name__ == "__main__":
    main()
