"""Whitening of a stream of coefficients: block Krylov against IncrementalPCA.

    python -m benchmarks.whitening [--seconds 300] [--threads 2] [--json FILE]

The scattering coefficients of generated colour images of 32×32 (J = 3, p = 10,416), in
memory in float32, and the same batches for both; scikit-learn's IncrementalPCA reads
each once, ours once a pass. The variance is what the components explain of rows that
neither has seen: ours at least as much, or the comparison means nothing.
"""

from functools import partial

import torch
from sklearn.decomposition import IncrementalPCA
from torch import Tensor

from benchmarks import side_by_side
from latent_scattering import datasets, krylov
from latent_scattering.pixels import to_unit
from latent_scattering.scattering import Scattering2D

CASES = [(4_096, 128, 3), (4_096, 512, 3)]  # n, d, passes
N_TEST, BATCH, J = 512, 1_024, 3


def coefficients(split: str, n: int) -> Tensor:
    """Return (n, p) coefficients, flattened."""
    pixels = datasets.load("polygon5-32", split, n=n).pixels
    scattering = Scattering2D(J, (32, 32))
    chunks = [scattering(to_unit(chunk)).flatten(1) for chunk in pixels.split(128)]
    return torch.cat(chunks)


def theirs(x: Tensor, d: int) -> IncrementalPCA:
    pca = IncrementalPCA(d)
    for batch in x.split(BATCH):
        pca.partial_fit(batch.numpy())
    return pca


def explained(components: Tensor, mean: Tensor, x: Tensor) -> float:
    """Return the share of the variance of rows that orthonormal components keep."""
    y = x.double() - mean.double()
    return float((y @ components.double().T).square().sum() / y.square().sum())


def measure(x: Tensor, y: Tensor, n: int, d: int, n_passes: int, budget: float) -> dict:
    some = x[:n]
    ours = partial(krylov.fit, lambda: some.split(BATCH), d, n_passes=n_passes, seed=0)
    seconds = side_by_side.medians(
        {"ours": ours, "scikit-learn": partial(theirs, some, d)}, budget
    )
    mine, pca = ours(), theirs(some, d)
    return {
        "n": n,
        "p": x.shape[1],
        "d": d,
        "passes": n_passes,
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
    given = side_by_side.arguments(__doc__, 300)
    x = coefficients("train", max(n for n, *_ in CASES))
    y = coefficients("test", N_TEST)
    results = [measure(x, y, *case, given.seconds / len(CASES)) for case in CASES]
    table = [
        {
            "case": f"n={r['n']:,}, p={r['p']:,}, d={r['d']}, {r['passes']} passes",
            "ours, s": r["seconds"]["ours"],
            "scikit-learn, s": r["seconds"]["scikit-learn"],
            "ratio": r["ratio"],
            "variance, ours": r["explained"]["ours"],
            "scikit-learn's": r["explained"]["scikit-learn"],
        }
        for r in results
    ]
    formats = ("", ".2f", ".2f", ".1f", ".5f", ".5f")
    side_by_side.report(given, results, table, formats)


if __name__ == "__main__":
    main()
