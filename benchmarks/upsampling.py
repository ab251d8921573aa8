"""A convolution of an upsampled image, forward and backward: ours against PyTorch's.

    python -m benchmarks.upsampling [--seconds 60] [--threads 2] [--json FILE]

For blocks of the generators, in float32, the median of several passes, taken in turns
in one process.
"""

import torch
from torch import nn

from benchmarks import side_by_side
from latent_scattering.upsampling import UpsampledConvolution

CASES = {  # channels in and out, side before upsampling, kernel, batch
    "MNIST, first block": (128, 64, 7, 3, 128),
    "MNIST, second block": (64, 32, 14, 3, 128),
    "128×128, second block": (512, 256, 8, 7, 4),
    "128×128, fourth block": (128, 64, 32, 7, 4),
}


def train(layer: nn.Module, x: torch.Tensor) -> None:
    y = layer(x)
    y.backward(torch.ones_like(y))


def measure(
    c_in: int, c_out: int, side: int, kernel: int, batch: int, budget: float
) -> dict:
    torch.manual_seed(0)
    ours = UpsampledConvolution(c_in, c_out, kernel, bias=False)
    theirs = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ReflectionPad2d(kernel // 2),
        nn.Conv2d(c_in, c_out, kernel, bias=False),
    ).to(memory_format=torch.channels_last)
    theirs[2].weight.data.copy_(ours.weight.data)
    x = torch.randn(batch, c_in, side, side).to(memory_format=torch.channels_last)
    ours, theirs, x = (thing.to(side_by_side.DEVICE) for thing in (ours, theirs, x))
    with torch.no_grad():
        error = ours(x) - theirs(x)  # and warm-up
        relative_error = float(error.norm() / theirs(x).norm())
    x.requires_grad_()
    layers = {"ours": lambda: train(ours, x), "PyTorch": lambda: train(theirs, x)}
    seconds = side_by_side.medians(layers, budget)
    return {
        "seconds": seconds,
        "ratio": seconds["PyTorch"] / seconds["ours"],
        "relative_error": relative_error,
    }


def main() -> None:
    given = side_by_side.arguments(__doc__, 60)
    results = {
        name: measure(*sizes, budget=given.seconds / len(CASES))
        for name, sizes in CASES.items()
    }
    table = [
        {
            "case": name,
            "ours, ms": 1000 * r["seconds"]["ours"],
            "PyTorch, ms": 1000 * r["seconds"]["PyTorch"],
            "ratio": r["ratio"],
            "relative error": r["relative_error"],
        }
        for name, r in results.items()
    ]
    cases = [{"case": name, **r} for name, r in results.items()]
    side_by_side.report(given, cases, table, ("", ".1f", ".1f", ".1f", ".1e"))


if __name__ == "__main__":
    main()
