"""A training step of the generator: compiled by torch.compile, and as it is.

    python -m benchmarks.compiled [--seconds 60] [--threads 2] [--json FILE]

Forward, backward and Adam's step, in float32 on a CPU and in bfloat16 on a GPU, as in
`inversion.fit`; the median of several, taken in turns in one process. Compiling takes
about a minute more; it wants a C++ compiler, without which there is no table.
"""

import shutil
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks import side_by_side
from latent_scattering.generator import Generator, architecture

CUDA = side_by_side.DEVICE.type == "cuda"
CASES = {  # name: shape of the images, d, batch
    "28×28": ((1, 28, 28), 512, 128),
    "32×32, colour": ((3, 32, 32), 512, 128),
    "128×128, colour": ((3, 128, 128), 512, 128 if CUDA else 4),
}


def network(shape: tuple[int, int, int], d: int) -> nn.Module:
    G = Generator(d, shape, **architecture(shape)._asdict(), seed=0)
    return G.to(side_by_side.DEVICE, memory_format=torch.channels_last)


def stepping(
    G: nn.Module, run: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor
) -> Callable[[], float]:
    """Return a step of Adam on a network, which is called as `run`."""
    optimiser = torch.optim.Adam(G.parameters(), fused=True)

    def step() -> float:
        optimiser.zero_grad()
        with torch.autocast(z.device.type, torch.bfloat16, enabled=CUDA):
            loss = run(z).abs().mean()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def measure(shape: tuple[int, int, int], d: int, batch: int, budget: float) -> dict:
    torch.manual_seed(0)
    z = torch.randn(batch, d, device=side_by_side.DEVICE)
    plain, other = network(shape, d), network(shape, d)
    steps = {
        "as it is": stepping(plain, plain, z),
        "compiled": stepping(other, torch.compile(other), z),
    }
    start = time.perf_counter()
    steps["compiled"]()
    compiling = time.perf_counter() - start
    steps["as it is"]()
    # The same step again, of both: the losses after one step agree or do not.
    losses = {name: step() for name, step in steps.items()}
    seconds = side_by_side.medians(steps, budget)
    return {
        "batch": batch,
        "seconds": seconds,
        "compiling": compiling,
        "ratio": seconds["as it is"] / seconds["compiled"],
        "relative_error": abs(losses["compiled"] / losses["as it is"] - 1),
    }


def main() -> None:
    given = side_by_side.arguments(__doc__, 60)
    if not CUDA and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        print("compiled: no C++ compiler, so there is nothing to measure")
        sys.exit(0)
    results = {
        name: measure(*case, budget=given.seconds / len(CASES))
        for name, case in CASES.items()
    }
    table = [
        {
            "case": f"{name}, batch {r['batch']}",
            "as it is, ms": 1000 * r["seconds"]["as it is"],
            "compiled, ms": 1000 * r["seconds"]["compiled"],
            "ratio": r["ratio"],
            "compiling, s": r["compiling"],
            "relative error": r["relative_error"],
        }
        for name, r in results.items()
    ]
    cases = [{"case": name, **r} for name, r in results.items()]
    side_by_side.report(given, cases, table, ("", ".1f", ".1f", ".2f", ".0f", ".1e"))


if __name__ == "__main__":
    main()
