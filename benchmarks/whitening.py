"""Whitening of a stream of coefficients: randomised against IncrementalPCA.

    python -m benchmarks.whitening [--seconds 60] [--threads 2] [--json FILE]

Takes long on a CPU, however short --seconds is: most of it IncrementalPCA's, the rest
to scatter the images of the last case, which is measured only once.

The scattering coefficients of generated colour images, in memory in float32, in the
same batches for both; scikit-learn's IncrementalPCA reads each once, ours once a pass.
The variance is what the components explain of rows that neither has seen: ours at least
as much, or the comparison means nothing. Ours takes the passes and columns that
`embedding` takes, with which it finds the components of MNIST to 10⁻³ (a test).
"""

import math
from typing import Any

import torch
from sklearn.decomposition import IncrementalPCA
from torch import Tensor

from benchmarks import side_by_side
from latent_scattering import datasets, randomised
from latent_scattering.pixels import to_unit
from latent_scattering.scattering import Scattering2D
from latent_scattering.whitening import Whitening

# side, J, n, batch, d
CASES = [
    (32, 3, 4_096, 1_024, 128),
    (32, 3, 16_384, 1_024, 512),
    (128, 4, 4_096, 1_024, 512),
    (128, 4, 32_768, 1_024, 512),
]
N_TEST = 512


def coefficients(side: int, J: int, split: str, n: int) -> Tensor:
    """Return (n, p) coefficients, flattened."""
    pixels = datasets.load(f"polygon5-{side}", split, n=n).pixels
    scattering = Scattering2D(J, (side, side)).to(side_by_side.DEVICE)
    p = 3 * math.prod(scattering.output_shape)
    x = torch.empty(n, p, device=side_by_side.DEVICE)  # to join chunks takes twice that
    for rows, chunk in zip(x.split(128), pixels.split(128), strict=True):
        rows[:] = scattering(to_unit(chunk.to(x.device))).flatten(1)
    return x


def theirs(x: Tensor, d: int, batch: int) -> IncrementalPCA:
    pca = IncrementalPCA(d)
    for some in x.cpu().split(batch):
        pca.partial_fit(some.numpy())
    return pca


def ours(x: Tensor, d: int, batch: int) -> Whitening:
    return randomised.fit(lambda: x.split(batch), d, seed=0)


def explained(components: Tensor, mean: Tensor, x: Tensor) -> float:
    """Return the share of the variance of rows that orthonormal components keep."""
    y = x.double().cpu() - mean.double().cpu()
    kept = (y @ components.double().cpu().T).square().sum()
    return float(kept / y.square().sum())


def measure(side: int, J: int, n: int, batch: int, d: int, budget: float) -> dict:
    x, y = (coefficients(side, J, *part) for part in (("train", n), ("test", N_TEST)))
    fitted: dict[str, Any] = {}
    seconds = side_by_side.medians(
        {
            "ours": lambda: fitted.update(ours=ours(x, d, batch)),
            "scikit-learn": lambda: fitted.update(theirs=theirs(x, d, batch)),
        },
        budget,
    )
    mine, pca = fitted["ours"], fitted["theirs"]
    return {
        "side": side,
        "n": n,
        "p": x.shape[1],
        "d": d,
        "seconds": seconds,
        "ratio": seconds["scikit-learn"] / seconds["ours"],
        "explained": {
            "ours": explained(mine.components, mine.mean, y),
            "scikit-learn": explained(
                torch.from_numpy(pca.components_), torch.from_numpy(pca.mean_), y
            ),
        },
    }


def main() -> None:
    given = side_by_side.arguments(__doc__, 60)
    with torch.no_grad():
        results = [measure(*case, given.seconds / len(CASES)) for case in CASES]
    table = [
        {
            "case": f"p={r['p']:,}, n={r['n']:,}, d={r['d']}",
            "ours, s": r["seconds"]["ours"],
            "scikit-learn, s": r["seconds"]["scikit-learn"],
            "ratio": r["ratio"],
            "variance, ours": r["explained"]["ours"],
            "scikit-learn's": r["explained"]["scikit-learn"],
        }
        for r in results
    ]
    formats = ("", ".2f", ".2f", ".1f", ".6f", ".6f")
    side_by_side.report(given, results, table, formats)


if __name__ == "__main__":
    main()
