"""How good samples are: distances and tests between two sets of vectors.

Everywhere x holds n real vectors, which were held out from what made the samples, and
y holds m samples, of k columns both: images as rows of pixels, codes z, or the
features of a classifier (`features`). NumPy arrays or tensors; all is computed in
float64, on the device of x, in blocks: 10,000 and 10,000 rows of 512 columns take less
than 2 GiB.

Every function raises a ParameterError if x and y have different numbers of columns or
too few rows, or hold values that are not finite.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy import stats
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from latent_scattering.errors import ParameterError

# y's columns have no name: `_checked` says what is wrong with them in one line.
Real = Float[np.ndarray | Tensor, "n k"]
Samples = Float[np.ndarray | Tensor, "m _"]
Matrix = Float64[Tensor, "_ k"]

BLOCK = 2**21  # numbers that one block holds: 16 MiB
MEDIAN_ROWS = 2_000  # real rows whose distances give the bandwidth of `mmd`
LEAST = 20  # rows of each set that `two_sample` wants


class PRDC(NamedTuple):
    """Precision and recall, density and coverage; see `prdc`."""

    precision: float
    recall: float
    density: float
    coverage: float


class TwoSample(NamedTuple):
    """The accuracy of a classifier on rows it has not seen; see `two_sample`."""

    accuracy: float
    low: float
    high: float
    p: float


class Nearest(NamedTuple):
    """The nearest real row of each sample, on the CPU; see `nearest`."""

    indices: Int64[Tensor, " m"]
    distances: Float64[Tensor, " m"]


def sliced_wasserstein(
    x: Real, y: Samples, *, n_projections: int = 512, seed: int
) -> float:
    """Return the sliced Wasserstein distance of order 1, ≥ 0, in the units of x.

    The mean over directions θ, uniform on the sphere, of W₁ between x·θ and y·θ: the
    area between their quantile functions (Bonneel et al. 2015, "Sliced and Radon
    Wasserstein barycenters of measures", with order 1), exact for any n and m. One
    seed gives the same directions for all sets of k columns, which makes them
    comparable. Two sets of n normal rows are 1.8 n^(-1/2) standard deviations apart on
    average, not 0.
    """
    x, y = _checked(x, y, least=1)
    if n_projections < 1:
        raise ParameterError(f"n_projections={n_projections}: at least 1 is allowed")
    n, m = len(x), len(y)
    # Not default_rng: the directions would be rows of what it drew from one seed.
    rng = np.random.Generator(np.random.Philox(seed))
    normal = rng.standard_normal((n_projections, x.shape[1]))
    directions = torch.from_numpy(normal).to(x.device)
    directions /= directions.norm(dim=1, keepdim=True)
    # In units of 1/nm: between two cuts, both quantile functions are constant.
    steps = [torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]
    cuts = torch.cat(steps).unique().to(x.device)
    widths = cuts.diff(prepend=cuts.new_zeros(1)).double() / (n * m)
    i, j = (cuts - 1) // m, (cuts - 1) // n
    total = 0.0
    for some in directions.split(_rows(n + m)):
        gap = (some @ x.T).sort().values[:, i] - (some @ y.T).sort().values[:, j]
        total += float((gap.abs() @ widths).sum())
    return total / n_projections


def mmd(x: Real, y: Samples) -> float:
    """Return the unbiased squared maximum mean discrepancy with Gaussian kernels.

    The kernel is the mean of exp(−‖a − b‖² / 2s²) over the bandwidths s = σ/2, σ and
    2σ, with σ the median distance of real rows (2,000 at most, evenly spaced in x). It
    does not change if both sets are scaled, but is not symmetric in them. At most 2;
    0 on average if the distributions are the same, so often below 0; comparable at any
    n and m. Gretton et al. 2012, "A kernel two-sample test", equation 3.

    Raises
    ------
    ParameterError
        If σ is 0: most real rows are equal.
    """
    x, y = _checked(x, y)
    some = x[:: math.ceil(len(x) / MEDIAN_ROWS)]
    sigma = float(torch.pdist(some).median())
    if sigma == 0:
        raise ParameterError("x: most rows are equal, which leaves no bandwidth")

    def gaussian(a: Matrix, b: Matrix) -> Float64[Tensor, "_ _"]:
        wide = _squared_distances(a, b).div_(-8 * sigma**2).exp_()
        middle = wide.square().square_()  # half the bandwidth is the fourth power
        narrow = middle.square().square_()
        return wide.add_(middle).add_(narrow).div_(3)

    return _unbiased(gaussian, x, y)


def kernel(x: Real, y: Samples) -> float:
    """Return the kernel distance: the unbiased squared MMD with (a·b/k + 1)³.

    From all rows, not as a mean over blocks of them. In the units of the features, so
    to be compared between samples with the same features only; 0 on average if the
    distributions are the same, so often below 0; comparable at any n and m. Bińkowski
    et al. 2018, "Demystifying MMD GANs".
    """
    x, y = _checked(x, y)

    def cubic(a: Matrix, b: Matrix) -> Float64[Tensor, "_ _"]:
        return (a @ b.T).div_(x.shape[1]).add_(1).pow_(3)

    return _unbiased(cubic, x, y)


def frechet(x: Real, y: Samples) -> float:
    """Return the squared Fréchet distance of the Gaussians fitted to x and y, ≥ 0.

    ‖μ − ν‖² + tr(Σ + T − 2(ΣT)^(1/2)), in squared units of the features (Heusel et
    al. 2017, "GANs trained by a two time-scale update rule …", equation 6).
    Covariances may be singular. Biased upwards: two sets of one white distribution are
    about k²(1/n + 1/m)/4 apart on average, for n and m far above k. So compare at equal
    n and m, and with the distance of two real sets.
    """
    x, y = _checked(x, y)
    means, roots = [], []
    for rows in (x, y):
        mean = rows.mean(0)
        # RᵀR is the covariance, which is never formed: its square root keeps twice
        # the digits.
        scaled = (rows - mean) / math.sqrt(len(rows) - 1)
        means.append(mean)
        roots.append(torch.linalg.qr(scaled, mode="r").R)
    R, S = roots
    # (ΣT)^(1/2) has the trace of (SRᵀRSᵀ)^(1/2), the sum of RSᵀ's singular values.
    cross = torch.linalg.svdvals(R @ S.T).sum()
    spread = R.square().sum() + S.square().sum() - 2 * cross
    return max(0.0, float((means[0] - means[1]).square().sum() + spread))


def prdc(x: Real, y: Samples, *, k: int = 5) -> PRDC:
    """Return precision and recall, density and coverage.

    Around each row lies a ball that reaches to its kth nearest neighbour within its
    own set, the boundary included.

    * precision: the share of samples in a real ball; recall: of real rows in a
      sample's ball (Kynkäänniemi et al. 2019, "Improved precision and recall metric
      …", equation 2; there k = 3);
    * density: how many real balls a sample is in, over k, on average (≥ 0, may exceed
      1); coverage: the share of real balls that hold a sample (Naeem et al. 2020,
      "Reliable fidelity and diversity metrics …"; k = 5).

    All but density are in [0, 1]. If x and y have one distribution, density is 1 on
    average, and coverage near 1 − 2^(−k) where n = m; precision and recall may be far
    below 1 (½ for 10,000 rows of 512 normal columns). Precision grows with n, recall
    with m, coverage with m / n: compare at equal n and m, and with two real sets.

    Raises
    ------
    ParameterError
        If k is below 1 or there are not more than k rows.
    """
    if k < 1:
        raise ParameterError(f"k={k}: at least 1 neighbour is allowed")
    x, y = _checked(x, y, least=k + 1, why=f" for k={k} neighbours")
    n, m = len(x), len(y)
    own = torch.cat([_radii(rows, y, k) for rows in y.split(_rows(m))]).T
    balls = torch.zeros(m, dtype=torch.int64, device=x.device)
    recalled, covered = 0, 0
    for rows in x.split(_rows(max(n, m))):
        distances = _squared_distances(rows, y)
        inside = distances <= _radii(rows, x, k)
        balls += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((distances <= own).any(1).sum())
    return PRDC(
        precision=float((balls > 0).double().mean()),
        recall=recalled / n,
        density=float(balls.sum()) / (k * m),
        coverage=covered / n,
    )


def two_sample(
    x: Real, y: Samples, *, n_rows: int = 2_000, level: float = 0.95, seed: int
) -> TwoSample:
    """Return how well a classifier tells samples from real rows that it has not seen.

    A support vector machine with a Gaussian kernel, on standardised columns, learns on
    one half of the rows and is judged on the other (Lopez-Paz & Oquab 2017,
    "Revisiting classifier two-sample tests"). Accuracy is ½ by chance and 1 if the
    sets can be told apart; p and the interval are exact binomial ones. More rows tell
    smaller differences: compare at equal `n_rows`. No row may be in both sets.

    Parameters
    ----------
    n_rows
        Rows of each set that are used, at most: drawn at random, as many of x as of y,
        at least 20.
    level
        Coverage of the interval, in (0, 1).
    """
    if n_rows < LEAST or not 0 < level < 1:
        raise ParameterError(
            f"n_rows={n_rows}, level={level}: at least {LEAST}, and between 0 and 1"
        )
    x, y = _checked(x, y, least=LEAST)
    half = min(len(x), len(y), n_rows) // 2
    rng = np.random.default_rng(seed)
    drawn = [
        rows.cpu().numpy()[rng.choice(len(rows), 2 * half, replace=False)]
        for rows in (x, y)
    ]
    learnt = np.concatenate([rows[:half] for rows in drawn])
    judged = np.concatenate([rows[half:] for rows in drawn])
    truth = np.repeat([1, 0], half)
    machine = make_pipeline(StandardScaler(), SVC()).fit(learnt, truth)
    right = int((machine.predict(judged) == truth).sum())
    interval = stats.binomtest(right, 2 * half).proportion_ci(level)
    tested = stats.binomtest(right, 2 * half, alternative="greater")
    return TwoSample(
        right / (2 * half),
        float(interval.low),
        float(interval.high),
        float(tested.pvalue),
    )


def class_balance(
    predicted: Int64[np.ndarray | Tensor, " m"],
    true: Int64[np.ndarray | Tensor, " n"],
    n_classes: int,
) -> float:
    """Return the total variation distance of two histograms of classes, in [0, 1].

    ½ Σ |p − q| over the classes: the share of samples that would have to change their
    class. n and n labels drawn from C equally frequent classes are
    √((C − 1) / πn) apart on average, by chance.

    Raises
    ------
    ParameterError
        If there is no label, or one is not in 0 … n_classes − 1.
    """
    shares = []
    for name, given in (("predicted", predicted), ("true", true)):
        labels = _tensor(given).cpu()
        if not len(labels):
            raise ParameterError(f"{name}: no labels; at least one is wanted")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= n_classes:
            raise ParameterError(
                f"{name}: labels {low} … {high}; 0 … {n_classes - 1} are allowed"
            )
        counts = torch.bincount(labels, minlength=n_classes)
        shares.append(counts.double() / len(labels))
    return float((shares[0] - shares[1]).abs().sum() / 2)


def nearest(x: Real, y: Samples) -> Nearest:
    """Return the nearest row of x for each row of y: its index and distance.

    Euclidean distances, in the units of x; the first of rows at one distance. With x
    the training images, it shows whether samples are copies of them.
    """
    x, y = _checked(x, y, least=1)
    step = _rows(len(x))
    found = [_squared_distances(rows, x).argmin(1) for rows in y.split(step)]
    indices = torch.cat(found)
    # From the differences: a copy is at a distance of exactly 0.
    pairs = zip(y.split(step), indices.split(step), strict=True)
    distances = torch.cat([(rows - x[i]).norm(dim=1) for rows, i in pairs])
    return Nearest(indices.cpu(), distances.cpu())


def _checked(
    x: Real, y: Samples, *, least: int = 2, why: str = ""
) -> tuple[Float64[Tensor, "n k"], Float64[Tensor, "m k"]]:
    """Return both in float64, on the device of x; see the module for what raises."""
    real, samples = _tensor(x).double(), _tensor(y).double()
    for name, rows in (("x", real), ("y", samples)):
        if len(rows) < least:
            raise ParameterError(
                f"{name}: {len(rows)} rows; at least {least} are wanted{why}"
            )
        finite = rows.isfinite().all(0)
        if not finite.all():
            column = int(finite.logical_not().nonzero()[0])
            raise ParameterError(
                f"{name}: column {column + 1} has values that are not finite"
            )
    k, other = real.shape[1], samples.shape[1]
    if k != other or k == 0:
        raise ParameterError(
            f"x has {k} columns, y {other}: the same number is wanted, at least 1"
        )
    return real, samples.to(real.device)


def _tensor(values: np.ndarray | Tensor) -> Tensor:
    # A copy of the array: one that cannot be written to makes torch warn.
    if isinstance(values, np.ndarray):
        return torch.from_numpy(values.copy())
    return values.detach()


def _rows(columns: int) -> int:
    """Return how many rows of a matrix with so many columns make a block."""
    return max(1, BLOCK // columns)


def _squared_distances(
    a: Float64[Tensor, "n k"], b: Float64[Tensor, "m k"]
) -> Float64[Tensor, "n m"]:
    """Return ‖a‖² + ‖b‖² − 2a·b, of which rounding makes no negative numbers."""
    distances = torch.addmm(b.norm(dim=1).square(), a, b.T, alpha=-2)
    return distances.add_(a.norm(dim=1, keepdim=True).square()).clamp_(min=0)


def _radii(
    rows: Float64[Tensor, "r k"], among: Float64[Tensor, "n k"], k: int
) -> Float64[Tensor, "r 1"]:
    """Return squared distances to the kth neighbours; each row is among them itself."""
    nearest = _squared_distances(rows, among).topk(k + 1, largest=False)
    return nearest.values[:, -1:]


def _unbiased(
    kernel: Callable[[Tensor, Tensor], Tensor],
    x: Float64[Tensor, "n k"],
    y: Float64[Tensor, "m k"],
) -> float:
    """Return the mean of k(x, x′) + k(y, y′) − 2k(x, y), no row with itself."""
    within = 0.0
    for z in (x, y):
        first, n = 0, len(z)
        for rows in z.split(_rows(n)):
            block = kernel(rows, z[first:])  # the pairs before were seen
            own, later = block[:, : len(rows)], block[:, len(rows) :]
            total = own.sum() - own.trace() + 2 * later.sum()
            within += float(total) / (n * (n - 1))
            first += len(rows)
    blocks = x.split(_rows(len(y)))
    across = sum(float(kernel(rows, y).sum()) for rows in blocks)
    return within - 2 * across / (len(x) * len(y))
