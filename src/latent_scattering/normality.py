"""Is each component Gaussian? Tests, and how far from it.

The tests are those of Ziomek & Farrahi's Table 1. All take an array of n rows and
d columns (components) and return a tidy table; columns are counted from 1.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from scipy import stats
from statsmodels.stats.multitest import multipletests
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.store import Store

TESTS = {"K²": stats.normaltest, "JB": stats.jarque_bera}
"""D'Agostino's K² and Jarque–Bera; both statistics are χ² with 2 degrees of freedom
for large n if the column is Gaussian."""

LEAST = 20  # rows; scipy's test of the kurtosis, a part of K², is not valid below
LEVELS = (0.05, 0.01)
BLOCK = 2**22  # numbers in float64 that are in memory at once: 32 MiB

# Sorted statistics of Gaussian samples of one size, by test.
Null = Mapping[str, Float64[np.ndarray, " replicates"]]


def checked(
    z: Float[np.ndarray, "n d"], *, least: int = LEAST
) -> Float[np.ndarray, "n d"]:
    """Return z, if every column can be tested.

    Raises
    ------
    ParameterError
        If there are fewer rows than ``least``, a value is not finite, or a column is
        constant; it names the first such column.
    """
    n, d = z.shape
    if d == 0:
        raise ParameterError(f"z has {n} rows and no column; give at least one")
    if n < least:
        raise ParameterError(
            f"column 1: {n} values; this test wants at least {least}: give more rows"
        )
    for faulty, what in (
        (~np.isfinite(z).all(0), "has values that are not finite"),
        (z.min(0) == z.max(0), "is constant"),
    ):
        if faulty.any():
            column = int(faulty.argmax())
            raise ParameterError(f"column {column + 1} {what}; leave it out")
    return z


def tests(z: Float[np.ndarray, "n d"], *, null: Null | None = None) -> pd.DataFrame:
    """Return K² and Jarque–Bera of each column.

    Parameters
    ----------
    z
        At least 20 rows.
    null
        From `null`, for the same n: p-values are then Monte-Carlo ones, valid for any
        n; by default they are those of χ² with 2 degrees of freedom.

    Returns
    -------
    Rows of ``component, test, statistic, p``.

    Raises
    ------
    ParameterError
        See `checked`.
    """
    tables = []
    for test, (statistic, p) in _statistics(checked(z)).items():
        if null is not None:
            above = len(null[test]) - np.searchsorted(null[test], statistic)
            p = (1 + above) / (1 + len(null[test]))
        rows = {"component": np.arange(1, len(p) + 1), "test": test}
        tables.append(pd.DataFrame({**rows, "statistic": statistic, "p": p}))
    return pd.concat(tables, ignore_index=True)


def null(n: int, *, n_samples: int = 20_000, seed: int, store: Store) -> Null:
    """Return the statistics of Gaussian samples of n values, sorted; an artefact.

    Parameters
    ----------
    n
        Values a sample, at least 20.
    n_samples
        Samples drawn; the smallest p-value is 1 / (1 + n_samples).
    """

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        rng = np.random.default_rng([seed, n])
        found = _statistics(rng.standard_normal((n, n_samples)))
        return {k: torch.from_numpy(np.sort(s)) for k, (s, _) in found.items()}, {}

    parameters = {"n": n, "n_samples": n_samples, "seed": seed}
    made = store.get("normality-null", parameters, make)
    return {test: statistics.numpy() for test, statistics in made.tensors.items()}


def adjust(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of `tests` with ``p_holm`` and ``p_bh``, test by test.

    Holm keeps the probability of any false rejection below the level,
    Benjamini–Hochberg the expected share of false ones among the rejected.
    """
    by_test = table.groupby("test").p
    return table.assign(
        p_holm=by_test.transform(lambda p: multipletests(p, method="holm")[1]),
        p_bh=by_test.transform(lambda p: multipletests(p, method="fdr_bh")[1]),
    )


def rejections(
    table: pd.DataFrame, *, levels: Sequence[float] = LEVELS
) -> pd.DataFrame:
    """Count the columns that are rejected (Ziomek & Farrahi, Table 1).

    Parameters
    ----------
    table
        From `tests`.
    levels
        Levels of significance, in (0, 1).

    Returns
    -------
    Rows of ``test, level, rejected, holm, bh, d, expected, low, high``: rejected
    columns, those after either adjustment, the columns tested, the number that would
    be rejected were they all Gaussian, and the binomial 95 % band around it, for
    independent columns.
    """
    rows = []
    for test, group in adjust(table).groupby("test", sort=False):
        for level in levels:
            low, high = band(len(group), level)
            row = {
                "rejected": (group.p < level).sum(),
                "holm": (group.p_holm < level).sum(),
                "bh": (group.p_bh < level).sum(),
                "d": len(group),
                "expected": level * len(group),
            }
            rows.append({"test": test, "level": level, **row, "low": low, "high": high})
    return pd.DataFrame(rows)


def band(d: int, level: float) -> tuple[int, int]:
    """Return the binomial 95 % band of rejections among d independent true nulls."""
    low, high = stats.binom.ppf([0.025, 0.975], d, level)
    return int(low), int(high)


def sweep(
    z: Float[np.ndarray, "n d"],
    sizes: Sequence[int],
    *,
    n_subsets: int,
    levels: Sequence[float] = LEVELS,
    nulls: Mapping[int, Null] | None = None,
    seed: int,
) -> pd.DataFrame:
    """Count rejections on random subsets of the rows, by their size.

    Parameters
    ----------
    z
        All rows.
    sizes
        Rows a subset, 20 … n.
    n_subsets
        Subsets of each size; one where the size is n. Those of more than n / 2 rows
        overlap by necessity and vary less than independent ones.
    levels
        Levels of significance.
    nulls
        From `null`, by size: there, Monte-Carlo p-values are counted too.

    Returns
    -------
    Rows of ``n, subset, method, level, test, rejected``, the method of the p-values
    ``"asymptotic"`` or ``"Monte Carlo"``.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for n in sizes:
        methods = {"asymptotic": None, "Monte Carlo": (nulls or {}).get(n)}
        for subset in range(n_subsets if n < len(z) else 1):
            part = z[rng.choice(len(z), n, replace=False)]
            for method, found in methods.items():
                if method == "Monte Carlo" and found is None:
                    continue
                tested = tests(part, null=found)
                for level in levels:
                    row = {"n": n, "subset": subset, "method": method, "level": level}
                    below = (tested.p < level).groupby(tested.test, sort=False).sum()
                    rows += [
                        {**row, "test": t, "rejected": k} for t, k in below.items()
                    ]
    return pd.DataFrame(rows)


def size_of_count(curve: Mapping[int, float], count: float) -> float:
    """Return the n at which a count is first reached from below; NaN if nowhere.

    Parameters
    ----------
    curve
        Mean number of rejections, by n, in rising order; linear in log n between.
    """
    sizes, counts = np.array(list(curve)), np.array(list(curve.values()))
    rising = np.flatnonzero((counts[:-1] < count) & (counts[1:] >= count))
    if not len(rising):
        return np.nan
    i = rising[0]
    return float(np.exp(np.interp(count, counts[i : i + 2], np.log(sizes[i : i + 2]))))


def effect_sizes(z: Float[np.ndarray, "n d"], *, level: float = 0.95) -> pd.DataFrame:
    """Return skewness and excess kurtosis of each column, with intervals.

    Both are 0 for a Gaussian. The intervals are normal ones by the delta method: with
    u the standardised column, the influence of a value on the skewness g is
    u³ − 3u − 3g(u² − 1)/2 − g, on the kurtosis b it is u⁴ − 4gu − 2b(u² − 1) − b. They
    hold for large n, whatever the distribution, if it has eight moments; tails make
    them too short at small n (88 % for the kurtosis of a gamma variable of shape 16 at
    n = 2,000, nominally 95 %).

    Parameters
    ----------
    z
        At least 20 rows.
    level
        Coverage of the intervals, in (0, 1).

    Returns
    -------
    Rows of ``component, measure, value, low, high``, the measure ``"skewness"`` or
    ``"excess kurtosis"``.

    Raises
    ------
    ParameterError
        See `checked`.
    """
    checked(z)
    half = stats.norm.ppf((1 + level) / 2) / np.sqrt(len(z))
    parts = []
    for first, block in _blocks(z):
        u = stats.zscore(block)
        square = u * u
        g, b = stats.skew(u), stats.kurtosis(u, fisher=False)
        influences = {
            "skewness": u * square - 3 * u - 1.5 * g * (square - 1) - g,
            "excess kurtosis": square**2 - 4 * g * u - 2 * b * (square - 1) - b,
        }
        values = {"skewness": g, "excess kurtosis": b - 3}
        for measure, influence in influences.items():
            value, margin = values[measure], half * influence.std(0)
            component = np.arange(first + 1, first + 1 + len(value))
            rows = {"component": component, "measure": measure, "value": value}
            interval = {"low": value - margin, "high": value + margin}
            parts.append(pd.DataFrame({**rows, **interval}))
    table = pd.concat(parts)
    return table.sort_values(["measure", "component"], ignore_index=True)


def median_effects(
    z: Float[np.ndarray, "n d"], *, n_halves: int = 200, seed: int
) -> pd.DataFrame:
    """Return medians over the columns of |g| and |b|, of z and of halves of its rows.

    The halves are drawn from the seed and n alone, so that tables of two arrays of the
    same n rows are paired; see `difference`.

    Returns
    -------
    Columns ``skewness`` and ``excess kurtosis``, without sign; the first row of all
    rows of z, then one a random half.

    Raises
    ------
    ParameterError
        See `checked`.
    """
    n = len(checked(z))
    kept = np.ones((1 + n_halves, n))
    kept[1:] = np.arange(n) < n // 2
    kept[1:] = np.random.default_rng(seed).permuted(kept[1:], axis=1)
    weights = kept / kept.sum(1, keepdims=True)
    found = []
    for _, block in _blocks(z):
        u = stats.zscore(block)
        mean, m2, m3, m4 = (weights @ u**k for k in (1, 2, 3, 4))
        variance = m2 - mean**2
        third = m3 - 3 * mean * m2 + 2 * mean**3
        fourth = m4 - 4 * mean * m3 + 6 * mean**2 * m2 - 3 * mean**4
        found.append([third / variance**1.5, fourth / variance**2 - 3])
    medians = np.median(np.abs(np.concatenate(found, axis=2)), axis=2)
    return pd.DataFrame(medians.T, columns=["skewness", "excess kurtosis"])


def difference(
    one: pd.Series, other: pd.Series, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Return a difference of two columns of `median_effects`, and its interval.

    A normal one, with the deviation over the halves, which is that over samples of n
    for smooth statistics; for noise under the absolute value it is some 25 % too large,
    where a bootstrap's is too small and a jackknife's twice too large.

    Returns
    -------
    (value, low, high)
    """
    delta = (one - other).to_numpy()
    margin = stats.norm.ppf((1 + level) / 2) * delta[1:].std(ddof=1)
    return delta[0], delta[0] - margin, delta[0] + margin


def _statistics(
    z: Float[np.ndarray, "n d"],
) -> dict[str, Float64[np.ndarray, "2 d"]]:
    """Return statistics and asymptotic p-values of all columns, by test."""
    found: dict[str, list[Any]] = {test: [] for test in TESTS}
    for _, block in _blocks(z):
        for test, function in TESTS.items():
            result = function(block, axis=0)
            found[test].append(np.stack([result.statistic, result.pvalue]))
    return {test: np.concatenate(parts, axis=1) for test, parts in found.items()}


def _blocks(
    z: Float[np.ndarray, "n d"],
) -> Iterator[tuple[int, Float64[np.ndarray, "n _"]]]:
    """Yield blocks of columns in float64, and the number of columns before each."""
    step = max(1, BLOCK // len(z))
    for first in range(0, z.shape[1], step):
        yield first, z[:, first : first + step].astype(float)
