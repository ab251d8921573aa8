"""How near the randomised whitening comes to exact components.

    python -m benchmarks.precision [--threads 2] [--json FILE]

Takes half an hour on one core, most of it the exact solver's, and 6 GiB.

The scattering coefficients of generated colour images of 32×32, as many images as the
paper has of 128×128, whose covariance is the largest that fits: its eigenvectors, in
float64, beside the components of `randomised.fit`, for rows in float32 and in float16,
in which `rows.Rows` keeps them where float32 would take more than 4 GiB.
"""

import torch

from benchmarks import side_by_side
from benchmarks.whitening import coefficients
from latent_scattering import randomised, whitening
from latent_scattering.randomised import Stream
from latent_scattering.whitening import Whitening

SIDE, J, D = 32, 3, 512
CASES = (8_192, 65_536)
BATCH = 1_024


def kept(x: torch.Tensor, dtype: torch.dtype) -> Stream:
    """Rows as `rows.Rows` gives them, rounded but for the mean of their first batch."""
    shift = x[:BATCH].mean(0)
    return lambda: ((some - shift).to(dtype) + shift for some in x.split(BATCH))


def errors(near: Whitening, exact: Whitening, x: torch.Tensor) -> dict[str, float]:
    """Return the sine of the largest angle, and how far variances are from exact."""
    within = near.components @ exact.components.T @ exact.components
    outside = torch.linalg.matrix_norm(near.components - within, 2)
    off = (near.eigenvalues / exact.eigenvalues - 1).abs().max()
    parts = ((some - exact.mean) @ near.components.T for some in x.split(BATCH))
    explained = sum(part.square().sum() for part in parts) / (len(x) - 1)
    lost = 1 - explained / exact.eigenvalues.sum()
    numbers = {"sine": outside, "eigenvalue": off, "variance": lost}
    return {name: number.item() for name, number in numbers.items()}


def measure(n: int) -> list[dict]:
    x = coefficients(SIDE, J, "train", n)
    exact = whitening.fit(x.split(BATCH), D)
    results = []
    for dtype in (torch.float32, torch.float16):
        near = randomised.fit(kept(x, dtype), D, seed=0)
        name = str(dtype).removeprefix("torch.")
        case = {"images": n, "p": x.shape[1], "d": D, "rows": name}
        results.append({**case, **errors(near, exact, x)})
    return results


def main() -> None:
    given = side_by_side.arguments(__doc__, 600)
    with torch.no_grad():
        results = [result for n in CASES for result in measure(n)]
    table = [
        {
            "case": f"p={r['p']:,}, n={r['images']:,}, d={D}, {r['rows']}",
            "sine of largest angle": r["sine"],
            "eigenvalue, most": r["eigenvalue"],
            "variance lost": r["variance"],
        }
        for r in results
    ]
    side_by_side.report(given, results, table, ("", ".1e", ".1e", ".1e"))


if __name__ == "__main__":
    main()
