"""Are the components independent? Direct tests, each calibrated by copies of z.

What a test gives on copies of the same size and marginals is what it gives by chance.
There are two kinds of copies (`Null`):

* ``"independent"``: each column is permuted by itself;
* ``"linear"``: the columns are permuted so that they have the rank correlations of z,
  as a Gaussian copula; what exceeds these is nonlinear dependence.

Every test takes an array of n rows and d columns and returns a tidy table of
``test, first, second, statistic, null_mean, null_95, p``: one row on all columns
together, where ``first`` and ``second`` are missing, and, for some, one on each pair,
columns counted from 1. ``null_mean`` and ``null_95`` are the mean and the 95 % quantile
of the statistic by chance. With R copies the smallest p is 1 / (1 + R). A p below the
level α is a false alarm with probability at most α; over all pairs together too: each
is studentised by its own mean and deviation, and compared with the largest of all pairs
of a copy.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import special, stats
from scipy.spatial import cKDTree
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from latent_scattering.errors import ParameterError
from latent_scattering.normality import checked

Null = Literal["independent", "linear"]

LEAST = 20  # rows


def permuted(z: Float[np.ndarray, "n d"], *, seed: int) -> Float[np.ndarray, "n d"]:
    """Return z with each column permuted by itself: the same marginals, independent."""
    return np.random.default_rng(seed).permuted(z, axis=0)


def gaussianised(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Return z with each column mapped by its ranks to Gaussian quantiles.

    The columns are then as Gaussian as n values can be, and as dependent as before.
    """
    return stats.norm.ppf((stats.rankdata(z, axis=0) - 0.5) / len(z)).astype(z.dtype)


class Copies:
    """Copies of z that are dependent by chance only, or only linearly (`Null`).

    Those of the second kind have the correlations of `gaussianised` z, shrunk so that
    samples of copies are as correlated as z on average: Ledoit & Wolf's 1 − δ estimates
    which share of the squared correlations is not by chance; they are multiplied by its
    root. (Among many weak correlations, as of whitened columns, a few strong ones would
    be shrunk too much.)
    """

    def __init__(self, z: Float[np.ndarray, "n d"], null: Null) -> None:
        self.null = null
        if null == "linear":
            mapped = gaussianised(z).astype(float)
            weight = np.sqrt(1 - ledoit_wolf_shrinkage(mapped))
            correlation = weight * np.corrcoef(mapped, rowvar=False)
            np.fill_diagonal(correlation, 1)
            # What is drawn with it is only ranked: single precision is enough.
            self._factor = np.linalg.cholesky(correlation).astype(np.float32)

    def draw(
        self, z: Float[np.ndarray, "m d"], rng: np.random.Generator
    ) -> Float[np.ndarray, "m d"]:
        """Return one copy of some rows, with their marginals."""
        # Transposed, so that what is permuted or sorted is contiguous.
        if self.null == "independent":
            return rng.permuted(np.ascontiguousarray(z.T), axis=1).T
        drawn = self._factor @ rng.standard_normal(z.T.shape, dtype=np.float32)
        copy = np.empty_like(z.T, order="C")
        np.put_along_axis(copy, drawn.argsort(axis=1), np.sort(z.T, axis=1), axis=1)
        return copy.T


def squares(
    z: Float[np.ndarray, "n d"],
    *,
    n_permutations: int = 99,
    null: Null = "independent",
    seed: int,
) -> pd.DataFrame:
    """Test the correlations of squares, `square_correlations`.

    Uncorrelated components that are large together, as those of natural images are,
    have correlated squares. On all columns: the root mean square over the pairs.
    """
    checked(np.square(_checked(z)), least=LEAST)  # that of a ± c is constant
    return _pairwise(
        "correlation of squares", z, square_correlations, n_permutations, null, seed
    )


def distances(
    z: Float[np.ndarray, "n d"],
    *,
    n_permutations: int = 99,
    null: Null = "independent",
    seed: int,
) -> pd.DataFrame:
    """Test the squared distance correlation of each pair, `distance_correlations`.

    That of large n is 0 for independent columns alone. On all columns: the root mean
    square over the pairs.
    """
    return _pairwise(
        "squared distance correlation",
        z,
        distance_correlations,
        n_permutations,
        null,
        seed,
    )


def information(
    z: Float[np.ndarray, "n d"],
    *,
    n_permutations: int = 99,
    null: Null = "independent",
    seed: int,
) -> pd.DataFrame:
    """Test the mutual information of each pair, `mutual_information`, in nats.

    On all columns: the root mean square over the pairs.
    """
    return _pairwise(
        "mutual information", z, mutual_information, n_permutations, null, seed
    )


def first_against_rest(
    z: Float[np.ndarray, "n d"],
    *,
    n_permutations: int = 99,
    null: Null = "independent",
    seed: int,
) -> pd.DataFrame:
    """Test the distance correlation between the first column and all others.

    The statistic is the bias-corrected square. Memory grows as n². Against independent
    copies, the first column is permuted and the others stay together.
    """

    x = np.empty((len(_checked(z)), len(z)))  # fresh memory costs more than filling it

    def measure(
        first: Float[np.ndarray, " n"], rest: Float[np.ndarray, "n n"]
    ) -> float:
        distances = np.abs(np.subtract.outer(first, first, out=x), out=x), rest
        products = [[np.vdot(a, b) for b in distances] for a in distances]
        sums = np.stack([a.sum(1) for a in distances])
        return float(_bias_corrected(np.array(products), sums)[0, 1])

    def parts(
        z: Float[np.ndarray, "n d"],
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n n"]]:
        return z[:, 0].astype(float), euclidean_distances(z[:, 1:].astype(float))

    first, rest = parts(z)
    value = measure(first, rest)
    if null == "independent":
        rng = np.random.default_rng(seed)
        by_chance = np.array(
            [measure(rng.permutation(first), rest) for _ in range(n_permutations)]
        )
    else:
        copies = _copies(z, n_permutations, null, seed)
        by_chance = np.array([measure(*parts(copy)) for copy in copies])
    row = {
        "test": "squared distance correlation, first and rest",
        "statistic": value,
        "null_mean": by_chance.mean(),
        "null_95": np.quantile(by_chance, 0.95),
        "p": _p(value, by_chance),
    }
    return _table([row])


def norms(
    z: Float[np.ndarray, "n d"],
    *,
    n_permutations: int = 99,
    null: Null = "independent",
    seed: int,
) -> pd.DataFrame:
    """Test the variance of ‖z‖² over 2d, that of χ², which z ~ N(0, I) would have.

    By chance, it is what the marginals give, whatever they are; the rest is due to
    dependence.
    """
    by_chance = np.array(
        [spread(copy) for copy in _copies(_checked(z), n_permutations, null, seed)]
    )
    value = spread(z)
    row = {
        "test": "variance of ‖z‖² over 2d",
        "statistic": value,
        "null_mean": by_chance.mean(),
        "null_95": np.quantile(by_chance, 0.95),
        "p": _p(value, by_chance),
    }
    return _table([row])


def spread(z: Float[np.ndarray, "n d"]) -> float:
    """Return the variance of ‖z‖² over 2d: 1 for z ~ N(0, I)."""
    return float(np.einsum("nd,nd->n", z, z).var(ddof=1) / (2 * z.shape[1]))


def classifier(
    z: Float[np.ndarray, "n d"],
    *,
    against: Literal["independent", "linear", "gaussian"] = "independent",
    n_splits: int = 10,
    level: float = 0.95,
    seed: int,
) -> pd.DataFrame:
    """Test whether a classifier tells z from copies of z, or from N(0, I).

    A support vector machine with a Gaussian kernel, given z and its squares, learns on
    one half of the rows and is judged on the other; each half is copied by itself. The
    accuracy is the mean over random splits into halves; p and the interval are those of
    Student's t with the variance of Nadeau & Bengio (2003), which allows for how the
    splits overlap. By chance it is ½, or a little less, since a copy has the very
    values of its rows (.49 at 360 × 128): the test errs on the safe side.

    Parameters
    ----------
    z
        At least 20 rows.
    against
        A `Null`, so that only dependence, or what exceeds its linear part, can be told;
        or ``"gaussian"``: draws of N(0, I).
    n_splits
        At least 2.
    level
        Coverage of the interval, in (0, 1).

    Returns
    -------
    One row, with ``low`` and ``high`` of the accuracy besides.
    """
    n, rng = len(_checked(z)), np.random.default_rng(seed)
    copies = None if against == "gaussian" else Copies(z, against)
    accuracies = []
    for _ in range(n_splits):
        order = rng.permutation(n)
        x, y = [], []
        for rows in (z[order[: n // 2]], z[order[n // 2 :]]):
            if copies is None:
                other = rng.standard_normal(rows.shape).astype(z.dtype)
            else:
                other = copies.draw(rows, rng)
            both = np.concatenate([rows, other])
            x.append(np.hstack([both, both**2]))
            y.append(np.repeat([1, 0], len(rows)))
        scaler = StandardScaler().fit(x[0])
        learned, judged = (scaler.transform(part) for part in x)
        # The kernel by products of matrices: SVC's own loops are ten times slower.
        machine = SVC(kernel="precomputed").fit(rbf_kernel(learned), y[0])
        accuracies.append(machine.score(rbf_kernel(judged, learned), y[1]))
    accuracy = float(np.mean(accuracies))
    # Learned on as much as judged: the second 1. A tiny floor for equal accuracies.
    error = np.sqrt((1 / n_splits + 1) * np.var(accuracies, ddof=1)) + 1e-9
    t = stats.t(n_splits - 1)
    margin = error * t.ppf((1 + level) / 2)
    name = "N(0, I)" if copies is None else f"{against} copies"
    row = {
        "test": f"classifier, z against {name}",
        "statistic": accuracy,
        "null_mean": 0.5,
        "null_95": 0.5 + error * t.ppf(0.95),
        "p": t.sf((accuracy - 0.5) / error),
    }
    limits = {"low": max(0.0, accuracy - margin), "high": min(1.0, accuracy + margin)}
    return _table([row]).assign(**limits)


def square_correlations(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Return the correlation matrix of the squares of the columns."""
    square = z * z
    square -= square.mean(0)
    square /= np.linalg.norm(square, axis=0)
    return square.T @ square


def distance_correlations(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Return the bias-corrected squared distance correlations of the columns, 0 on the
    diagonal, in time n² d².

    Székely & Rizzo (2014), "Partial distance correlation with methods for
    dissimilarities": inner products of U-centred distance matrices. dcor's
    `u_distance_correlation_sqr` gives the same, but compiles for seconds at import.
    """
    n, d = z.shape
    columns = z.T.astype(float, order="C")
    products, sums = np.zeros((d, d)), np.empty((d, n))
    for i in range(0, n, 16):  # rows that stay in the processor's cache
        some = np.abs(columns[:, i : i + 16, None] - columns[:, None])
        sums[:, i : i + 16] = some.sum(2)
        some = some.reshape(d, -1)
        products += some @ some.T
    return _bias_corrected(products, sums)


def mutual_information(
    z: Float[np.ndarray, "n d"], *, k: int = 3
) -> Float[np.ndarray, "d d"]:
    """Return mutual informations in nats, 0 on the diagonal, by k nearest neighbours.

    Kraskov, Stögbauer & Grassberger (2004), equation 8: biased towards 0; estimates
    below 0 are 0. scikit-learn's `mutual_info_regression` gives the same, in three to
    seven times the time, of which most goes into checks.
    """
    n, d = z.shape
    columns = (z / z.std(0)).T.astype(float, order="C")
    # Equal values are parted by chance, as the estimate supposes distinct ones.
    columns += 1e-8 * np.random.default_rng(0).standard_normal(columns.shape)
    ordered = np.sort(columns)
    digammas = special.digamma(np.arange(1, n + 1))
    matrix = np.zeros((d, d))
    for pair in combinations(range(d), 2):
        points = columns[list(pair)].T
        radius = cKDTree(points).query(points, k=k + 1, p=np.inf)[0][:, -1]
        radius -= 1e-12  # nearer than the k-th, whatever the rounding
        estimate = digammas[n - 1] + digammas[k - 1]
        for i in pair:
            first = np.searchsorted(ordered[i], columns[i] - radius)
            last = np.searchsorted(ordered[i], columns[i] + radius, side="right")
            estimate -= digammas[last - first - 1].mean()  # the point itself counts
        matrix[pair] = matrix[pair[::-1]] = max(0.0, estimate)
    return matrix


def _pairwise(
    test: str,
    z: Float[np.ndarray, "n d"],
    measure: Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "d d"]],
    n_permutations: int,
    null: Null,
    seed: int,
) -> pd.DataFrame:
    upper = np.triu_indices(_checked(z).shape[1], 1)
    # A row a copy, that of z itself first.
    values = np.empty((1 + n_permutations, len(upper[0])))
    values[0] = measure(z)[upper]
    for i, copy in enumerate(_copies(z, n_permutations, null, seed), 1):
        values[i] = measure(copy)[upper]
    total = np.sqrt(np.mean(np.square(values), axis=1))
    mean = values[1:].mean(0)
    # With z's own among them: so z and its copies are exchangeable under the null.
    centre, deviation = values.mean(0), values.std(0)
    studentised = np.abs(values - centre)
    studentised /= np.maximum(deviation, np.finfo(float).tiny)
    largest = studentised[1:].max(1)
    overall = {
        "test": test,
        "statistic": total[0],
        "null_mean": total[1:].mean(),
        "null_95": np.quantile(total[1:], 0.95),
        "p": _p(total[0], total[1:]),
    }
    pairs = {
        "test": test,
        "first": upper[0] + 1,
        "second": upper[1] + 1,
        "statistic": values[0],
        "null_mean": mean,
        "null_95": centre + deviation * np.quantile(largest, 0.95),
        "p": _p(studentised[0], largest),
    }
    return pd.concat([_table([overall]), _table(pairs)], ignore_index=True)


def _checked(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    if z.shape[1] == 1:
        raise ParameterError("column 1 is the only one; dependence wants two or more")
    return checked(z, least=LEAST)


def _copies(
    z: Float[np.ndarray, "n d"], n: int, null: Null, seed: int
) -> Iterator[Float[np.ndarray, "n d"]]:
    """Yield n copies, from one generator."""
    rng, copies = np.random.default_rng(seed), Copies(z, null)
    return (copies.draw(z, rng) for _ in range(n))


def _bias_corrected(
    products: Float[np.ndarray, "d d"], sums: Float[np.ndarray, "d n"]
) -> Float[np.ndarray, "d d"]:
    """Return squared distance correlations from the inner products of d matrices of
    distances and the sums of their rows: those of the U-centred matrices, normalised.
    """
    n, total = sums.shape[1], sums.sum(1)
    centred = products - 2 / (n - 2) * sums @ sums.T
    centred += np.outer(total, total) / ((n - 1) * (n - 2))
    lengths = np.sqrt(np.diag(centred))
    correlations = centred / np.outer(lengths, lengths)
    np.fill_diagonal(correlations, 0)
    return correlations


def _p(
    value: float | Float[np.ndarray, " m"], null: Float[np.ndarray, " n"]
) -> float | Float[np.ndarray, " m"]:
    """Return one-sided permutation p-values."""
    above = len(null) - np.searchsorted(np.sort(null), value)
    return (1 + above) / (1 + len(null))


def _table(rows: list[dict[str, Any]] | dict[str, Any]) -> pd.DataFrame:
    columns = ["test", "first", "second", "statistic", "null_mean", "null_95", "p"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.astype({"first": "Int64", "second": "Int64"})
