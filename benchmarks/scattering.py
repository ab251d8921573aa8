"""Scattering images: ours against kymatio's torch frontend, on this machine.

    python -m benchmarks.scattering [--seconds 120] [--threads 2] [--json FILE]

For each case, each batch size and each of the two, the median of several passes, taken
in turns in one process; then the best batch size of each.
"""

from functools import partial

import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

from benchmarks import side_by_side
from latent_scattering.scattering import Scattering2D

CASES = [  # J, side in pixels, batch sizes
    (2, 28, (16, 64, 256, 1024)),
    (4, 128, (1, 4, 16, 64)),
]
if side_by_side.DEVICE.type == "cuda":
    CASES = [(2, 28, (256, 1024, 4096, 16384)), (4, 128, (16, 64, 256, 1024))]


def measure(J: int, side: int, batches: tuple[int, ...], budget: float) -> dict:
    """Images per second of each at its best batch size, within `budget` seconds."""
    transforms = {
        "ours": Scattering2D(J, (side, side)).to(side_by_side.DEVICE),
        "kymatio": ScatteringTorch2D(J, (side, side)).to(side_by_side.DEVICE),
    }
    rates: dict[str, dict[int, float]] = {name: {} for name in transforms}
    generator = torch.Generator().manual_seed(0)
    for batch in batches:
        x = torch.rand(batch, side, side, generator=generator).to(side_by_side.DEVICE)
        outputs = {name: S(x) for name, S in transforms.items()}  # and warm-up
        if batch == batches[0]:
            error = outputs["ours"] - outputs["kymatio"]
            relative_error = float(error.norm() / outputs["kymatio"].norm())
        del outputs
        passes = {name: partial(S, x) for name, S in transforms.items()}
        for name, seconds in side_by_side.medians(
            passes, budget / len(batches)
        ).items():
            rates[name][batch] = batch / seconds
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
    given = side_by_side.arguments(__doc__, 120)
    with torch.no_grad():
        results = [measure(*case, given.seconds / len(CASES)) for case in CASES]
    table = [
        {
            "case": f"J={r['J']}, {r['side']}×{r['side']}",
            "ours, images/s": r["images_per_second"]["ours"],
            "(batch)": r["best_batch"]["ours"],
            "kymatio, images/s": r["images_per_second"]["kymatio"],
            "(batch) ": r["best_batch"]["kymatio"],
            "ratio": r["ratio"],
            "relative error": r["relative_error"],
        }
        for r in results
    ]
    formats = ("", ".1f", "", ".1f", "", ".1f", ".1e")
    side_by_side.report(given, results, table, formats)


if __name__ == "__main__":
    main()
