"""95 % intervals of a mean over seeds: Student's t."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def spread_of(values: ArrayLike) -> float:
    """Return half the length of the interval of a mean, of two values at least."""
    x = np.asarray(values, dtype=float)
    return float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))


def limits(values: ArrayLike) -> NDArray[np.float64]:
    """Return the lower and the upper limit of a mean."""
    spread = spread_of(values)
    return _mean(values) + np.array([-spread, spread])


def interval(values: ArrayLike, digits: int = 2) -> str:
    """Return a mean and half its interval in words that stay on one line."""
    mean = round(_mean(values), digits) + 0.0  # which is not −0
    text = f"{mean:.{digits}f} ± {spread_of(values):.{digits}f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _mean(values: ArrayLike) -> float:
    return float(np.asarray(values, dtype=float).mean())
