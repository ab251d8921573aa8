"""Scattering images: ours against kymatio's torch frontend, on this machine.

    python -m benchmarks.scattering [--seconds 90] [--threads 2] [--json FILE]

For each case, each batch size and each of the two, the median of several passes, taken
in turns in one process; then the best batch size of each.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
from tabulate import tabulate

from latent_scattering.report import processor_name
from latent_scattering.scattering import Scattering2D

CASES = [  # J, side in pixels, batch sizes
    (2, 28, (16, 64, 256)),
    (4, 128, (1, 4, 16)),
]
MAX_TURNS = 15
MIN_TURNS = 3


def seconds(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    start = time.perf_counter()
    function(x)
    return time.perf_counter() - start


def measure(J: int, side: int, batches: tuple[int, ...], budget: float) -> dict:
    """Images per second of each at its best batch size, within `budget` seconds."""
    transforms = {
        "ours": Scattering2D(J, (side, side)),
        "kymatio": ScatteringTorch2D(J, (side, side)),
    }
    rates: dict[str, dict[int, float]] = {name: {} for name in transforms}
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        x = torch.rand(batch, side, side, generator=generator)
        outputs = {name: S(x) for name, S in transforms.items()}  # and warm-up
        if batch == batches[0]:
            error = outputs["ours"] - outputs["kymatio"]
            relative_error = float(error.norm() / outputs["kymatio"].norm())
        del outputs
        times: dict[str, list[float]] = {name: [] for name in transforms}
        stop = time.perf_counter() + budget / len(batches)
        for turn in range(MAX_TURNS):
            if turn >= MIN_TURNS and time.perf_counter() > stop:
                break
            for name, S in transforms.items():
                times[name].append(seconds(S, x))
        for name in transforms:
            rates[name][batch] = batch / statistics.median(times[name])
    best = {name: max(by_batch, key=by_batch.get) for name, by_batch in rates.items()}
    rate = {name: rates[name][best[name]] for name in transforms}
    return {
        "J": J,
        "side": side,
        "images_per_second": rate,
        "best_batch": best,
        "ratio": rate["ours"] / rate["kymatio"],
        "relative_error": relative_error,
        "images_per_second_by_batch": rates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=90, help="rough length of the whole (90)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    with torch.no_grad():
        results = [measure(*case, arguments.seconds / len(CASES)) for case in CASES]
    print(
        f"{processor_name()}, {arguments.threads} threads, torch {torch.__version__}\n"
    )
    table = [
        {
            "case": f"J={r['J']}, {r['side']}x{r['side']}",
            "ours, images/s": r["images_per_second"]["ours"],
            "(batch)": r["best_batch"]["ours"],
            "kymatio, images/s": r["images_per_second"]["kymatio"],
            "(batch) ": r["best_batch"]["kymatio"],
            "ratio": r["ratio"],
            "relative error": r["relative_error"],
        }
        for r in results
    ]
    print(
        tabulate(
            table, headers="keys", floatfmt=("", ".1f", "", ".1f", "", ".1f", ".1e")
        )
    )
    if arguments.json:
        machine = {
            "processor": processor_name(),
            "threads": arguments.threads,
            "torch": torch.__version__,
        }
        content = {"machine": machine, "cases": results}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
