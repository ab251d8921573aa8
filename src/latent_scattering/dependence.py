"""Are the components independent? Direct tests, calibrated by permutation.

A copy of z whose columns are permuted, each by itself, has the same marginals and no
dependence: what a test gives on such copies is what it gives by chance.

Every test takes an array of n rows and d columns and returns a tidy table of
``test, first, second, statistic, null_mean, null_95, p``: one row on all columns
together, where ``first`` and ``second`` are missing, and, for some, one on each pair,
columns counted from 1. ``null_mean`` and ``null_95`` are the mean and the 95 % quantile
of the statistic by chance. With R permutations the smallest p is 1 / (1 + R). A p
below the level α is a false alarm with probability at most α; over all pairs together
too, since each is compared with the largest of all pairs of a permuted copy.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, Literal

import dcor
import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.feature_selection import mutual_info_regression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from latent_scattering.errors import ParameterError
from latent_scattering.normality import checked

LEAST = 20  # rows


def permuted(z: Float[np.ndarray, "n d"], *, seed: int) -> Float[np.ndarray, "n d"]:
    """Return z with each column permuted by itself: the same marginals, independent."""
    return np.random.default_rng(seed).permuted(z, axis=0)


def squares(
    z: Float[np.ndarray, "n d"], *, n_permutations: int = 99, seed: int
) -> pd.DataFrame:
    """Test the correlations of squares, `square_correlations`.

    Uncorrelated components that are large together, as those of natural images are,
    have correlated squares. On all columns: the root mean square over the pairs.
    """
    return _pairwise(
        "correlation of squares", z, square_correlations, n_permutations, seed
    )


def distances(
    z: Float[np.ndarray, "n d"], *, n_permutations: int = 99, seed: int
) -> pd.DataFrame:
    """Test the bias-corrected squared distance correlation of each pair (dcor).

    That of large n is 0 for independent columns alone. On all columns: the root mean
    square over the pairs.
    """
    return _pairwise(
        "distance correlation", z, distance_correlations, n_permutations, seed
    )


def information(
    z: Float[np.ndarray, "n d"], *, n_permutations: int = 99, seed: int
) -> pd.DataFrame:
    """Test the mutual information of each pair, `mutual_information`, in nats.

    On all columns: the root mean square over the pairs.
    """
    return _pairwise("mutual information", z, mutual_information, n_permutations, seed)


def first_against_rest(
    z: Float[np.ndarray, "n d"], *, n_permutations: int = 99, seed: int
) -> pd.DataFrame:
    """Test the distance correlation between the first column and all others (dcor).

    The statistic is the bias-corrected square. By chance: the first column is permuted
    against the others, which stay together. Memory grows as n².
    """
    n = len(_checked(z))
    # By scipy's distances: dcor's own hold all n² d differences in memory.
    x, rest = (dcor.u_centered(cdist(part, part)) for part in (z[:, :1], z[:, 1:]))
    scale = np.sqrt(dcor.u_product(x, x) * dcor.u_product(rest, rest))
    rng = np.random.default_rng(seed)
    null = np.empty(n_permutations)
    for i in range(n_permutations):
        order = rng.permutation(n)
        null[i] = dcor.u_product(x[np.ix_(order, order)], rest) / scale
    value = dcor.u_product(x, rest) / scale
    row = {
        "test": "distance correlation, first and rest",
        "statistic": value,
        "null_mean": null.mean(),
        "null_95": np.quantile(null, 0.95),
        "p": _p(value, null),
    }
    return _table([row])


def norms(
    z: Float[np.ndarray, "n d"], *, n_permutations: int = 99, seed: int
) -> pd.DataFrame:
    """Test ‖z‖², which is χ² with d degrees of freedom for z ~ N(0, I).

    Two rows. The variance of ‖z‖² over 2d, that of χ²: by chance, it is what the
    marginals give, whatever they are, and the rest is due to dependence. And the
    Kolmogorov–Smirnov distance between ‖z‖²/d and χ²_d/d, with its own null: that of
    z ~ N(0, I), which marginals that are not Gaussian violate as dependence does.
    """
    n, d = _checked(z).shape

    def spread(z: Float[np.ndarray, "n d"]) -> float:
        return float(np.einsum("nd,nd->n", z, z).var(ddof=1) / (2 * d))

    null = np.array([spread(y) for y in _copies(z, n_permutations, seed)])
    value = spread(z)
    by_chance = {
        "test": "variance of ‖z‖² over 2d",
        "statistic": value,
        "null_mean": null.mean(),
        "null_95": np.quantile(null, 0.95),
        "p": _p(value, null),
    }
    distance = stats.kstest(np.einsum("nd,nd->n", z, z), stats.chi2(d).cdf)
    by_theory = {
        "test": "‖z‖²/d against χ²",
        "statistic": distance.statistic,
        "null_mean": stats.kstwobign.mean() / np.sqrt(n),
        "null_95": stats.kstwobign.ppf(0.95) / np.sqrt(n),
        "p": distance.pvalue,
    }
    return _table([by_chance, by_theory])


def classifier(
    z: Float[np.ndarray, "n d"],
    *,
    against: Literal["permuted", "gaussian"] = "permuted",
    level: float = 0.95,
    seed: int,
) -> pd.DataFrame:
    """Test whether a classifier tells z from z permuted, or from N(0, I).

    A support vector machine with a Gaussian kernel, given z and its squares, learns on
    one half of the rows and is judged on the other; each half is permuted by itself.
    Its accuracy is ½ by chance; p and the interval are exact binomial ones.

    Parameters
    ----------
    z
        At least 20 rows.
    against
        ``"permuted"``: column-permuted z, so that only dependence can be told;
        ``"gaussian"``: draws of N(0, I).
    level
        Coverage of the interval, in (0, 1).

    Returns
    -------
    One row, with ``low`` and ``high`` of the accuracy besides.
    """
    rng = np.random.default_rng(seed)
    half = len(_checked(z)) // 2
    order = rng.permutation(len(z))
    x, y = [], []
    for rows in (z[order[:half]], z[order[half:]]):
        other = rng.permuted(rows, axis=0)
        if against == "gaussian":
            other = rng.standard_normal(rows.shape).astype(z.dtype)
        both = np.concatenate([rows, other])
        x.append(np.hstack([both, both**2]))
        y.append(np.repeat([1, 0], len(rows)))
    machine = make_pipeline(StandardScaler(), SVC()).fit(x[0], y[0])
    right, judged = int((machine.predict(x[1]) == y[1]).sum()), len(y[1])
    tested = stats.binomtest(right, judged, alternative="greater")
    interval = stats.binomtest(right, judged).proportion_ci(level)
    name = {"permuted": "permuted z", "gaussian": "N(0, I)"}[against]
    row = {
        "test": f"classifier, z against {name}",
        "statistic": right / judged,
        "null_mean": 0.5,
        "null_95": stats.binom.ppf(0.95, judged, 0.5) / judged,
        "p": tested.pvalue,
    }
    return _table([row]).assign(low=interval.low, high=interval.high)


def square_correlations(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Return the correlation matrix of the squares of the columns."""
    square = z * z
    square -= square.mean(0)
    square /= np.linalg.norm(square, axis=0)
    return square.T @ square


def distance_correlations(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Return the bias-corrected squared distance correlations, of time n log n each."""
    columns = z.T.astype(float)
    return _matrix(
        z.shape[1],
        lambda i, j: dcor.u_distance_correlation_sqr(columns[i], columns[j]),
    )


def mutual_information(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d d"]:
    """Return mutual informations in nats, by scikit-learn's three nearest neighbours.

    Of Kraskov, Stögbauer & Grassberger; biased towards 0, estimates below 0 are 0.
    """
    return _matrix(
        z.shape[1],
        lambda i, j: mutual_info_regression(z[:, [i]], z[:, j], random_state=0)[0],
    )


def _pairwise(
    test: str,
    z: Float[np.ndarray, "n d"],
    measure: Callable[[Float[np.ndarray, "n d"]], Float[np.ndarray, "d d"]],
    n_permutations: int,
    seed: int,
) -> pd.DataFrame:
    upper = np.triu_indices(_checked(z).shape[1], 1)

    def values(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " pairs"]:
        return measure(z)[upper]

    found = values(z)
    mean, largest, total = np.zeros(len(found)), [], []
    for copy in _copies(z, n_permutations, seed):
        by_chance = values(copy)
        mean += by_chance / n_permutations
        largest.append(np.abs(by_chance).max())
        total.append(_rms(by_chance))
    overall = {
        "test": test,
        "statistic": _rms(found),
        "null_mean": np.mean(total),
        "null_95": np.quantile(total, 0.95),
        "p": _p(_rms(found), np.array(total)),
    }
    pairs = {
        "test": test,
        "first": upper[0] + 1,
        "second": upper[1] + 1,
        "statistic": found,
        "null_mean": mean,
        "null_95": np.quantile(largest, 0.95),
        "p": _p(np.abs(found), np.array(largest)),
    }
    return pd.concat([_table([overall]), _table(pairs)], ignore_index=True)


def _checked(z: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    if z.shape[1] == 1:
        raise ParameterError("column 1 is the only one; dependence wants two or more")
    return checked(z, least=LEAST)


def _copies(
    z: Float[np.ndarray, "n d"], n: int, seed: int
) -> Iterator[Float[np.ndarray, "n d"]]:
    """Yield n column-permuted copies, from one generator."""
    rng = np.random.default_rng(seed)
    return (rng.permuted(z, axis=0) for _ in range(n))


def _matrix(d: int, pair: Callable[[int, int], float]) -> Float[np.ndarray, "d d"]:
    """Return the symmetric matrix of a function of pairs, 0 on the diagonal."""
    matrix = np.zeros((d, d))
    for i, j in combinations(range(d), 2):
        matrix[i, j] = matrix[j, i] = pair(i, j)
    return matrix


def _p(
    value: float | Float[np.ndarray, " m"], null: Float[np.ndarray, " n"]
) -> float | Float[np.ndarray, " m"]:
    """Return one-sided permutation p-values."""
    above = len(null) - np.searchsorted(np.sort(null), value)
    return (1 + above) / (1 + len(null))


def _rms(values: Float[np.ndarray, " n"]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _table(rows: list[dict[str, Any]] | dict[str, Any]) -> pd.DataFrame:
    columns = ["test", "first", "second", "statistic", "null_mean", "null_95", "p"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    return table.astype({"first": "Int64", "second": "Int64"})
