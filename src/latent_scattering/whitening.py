"""Whitening: the first d principal components, each divided by its deviation."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import scipy.linalg
import torch
from jaxtyping import Float
from torch import Tensor

from latent_scattering.errors import ParameterError

LARGEST = 2**28  # numbers in memory at once: 2 GiB in float64; thrice that for n ≤ p


@dataclass(frozen=True, eq=False)
class Whitening:
    """The affine map x ↦ D_d^(-1/2) Q_dᵀ (x − μ) (Angles & Mallat, section 2.1).

    The same as scikit-learn's ``PCA(d, whiten=True)`` up to the signs of components:
    here, the largest entry of each component is positive.
    """

    mean: Float[Tensor, " p"]
    """μ, the empirical mean."""
    components: Float[Tensor, "d p"]
    """Q_dᵀ, orthonormal rows: the eigenvectors of the empirical covariance."""
    eigenvalues: Float[Tensor, " d"]
    """D_d, the variances along them (divided by n − 1), in falling order."""
    total_variance: Float[Tensor, ""]
    """The trace of the covariance."""

    @property
    def explained_variance_ratio(self) -> Float[Tensor, " d"]:
        """Each component's share of the variance, in (0, 1]."""
        return self.eigenvalues / self.total_variance

    def transform(self, x: Float[Tensor, "n p"]) -> Float[Tensor, "n d"]:
        """Return z, in the dtype and on the device of the whitening."""
        centred = x.to(self.mean) - self.mean
        return centred @ self.components.T / self.eigenvalues.sqrt()

    def inverse_transform(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n p"]:
        """Return the point of the d-dimensional affine subspace that has the code z."""
        scaled = z.to(self.mean) * self.eigenvalues.sqrt()
        return scaled @ self.components + self.mean

    def to(self, device: torch.device, dtype: torch.dtype) -> "Whitening":
        """Return a copy on a device, in a dtype."""
        return Whitening(**{k: t.to(device, dtype) for k, t in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return what it consists of, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def fit(batches: Iterable[Float[Tensor, "_ p"]], d: int) -> Whitening:
    """Return the whitening of a stream of rows, read once; float64.

    Exact: all is computed in float64, on the batches' device. The p × p covariance is
    accumulated, shifted by the mean of the first batch. For n ≤ p rows, these are
    kept instead and their n × n Gram matrix, which has the same eigenvalues, is
    diagonalised; so memory holds min(n, p) × p numbers, up to three times.

    Parameters
    ----------
    batches
        Rows x in any number of batches.
    d
        Components that are kept: less than n, at most p.

    Raises
    ------
    ParameterError
        If n or p is too small for d, min(n, p) × p exceeds 2²⁸, a value is not finite,
        or the data have fewer than d dimensions.
    """
    held: list[Tensor] = []
    shift = total = scatter = torch.zeros((), dtype=torch.float64)
    n = 0
    for batch in batches:
        x = batch.double()
        p = x.shape[1]
        if not x.isfinite().all():
            row = n + int((~x.isfinite()).any(1).nonzero()[0])
            raise ParameterError(f"row {row} has values that are not finite")
        if n == 0:
            _check_dimension(d, p)
            shift = x.mean(0)
        x = x - shift
        n += len(x)
        total = total.to(x) + x.sum(0)
        held.append(x)
        if not fits(n, p):
            raise ParameterError(
                f"p={p:,} coefficients of {n:,} images or more: the exact whitening "
                f"allows {LARGEST // p:,} images of as many; take fewer of them, or "
                "randomised.fit"
            )
        if n > p:
            scatter = sum((y.T @ y for y in held), start=scatter.to(x))
            held.clear()
    if n <= d:
        raise ParameterError(f"n={n} images: more than d={d} are wanted")
    mean = total / n
    if held:
        centred = torch.cat(held) - mean
        gram = centred @ centred.T / (n - 1)
        variance = gram.trace()
        values, vectors = eigenpairs(gram, d)
        _check_rank(values)
        components = (vectors.T @ centred) / (values * (n - 1)).sqrt()[:, None]
    else:
        covariance = (scatter - n * torch.outer(mean, mean)) / (n - 1)
        variance = covariance.trace()
        values, vectors = eigenpairs(covariance, d)
        _check_rank(values)
        components = vectors.T
    peak = components.gather(1, components.abs().argmax(1, keepdim=True))
    return Whitening(shift + mean, components * peak.sign(), values, variance)


def fits(n: int, p: int) -> bool:
    """Return whether n rows of p coefficients are few enough for `fit`."""
    return min(n, p) * p <= LARGEST


def eigenpairs(
    symmetric: Float[Tensor, "m m"], d: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, "m d"]]:
    """Return the d largest eigenvalues of a matrix, falling, and their vectors."""
    if symmetric.is_cuda:
        values, vectors = torch.linalg.eigh(symmetric)
    else:  # d of them alone: half the time
        side = len(symmetric)
        pair = scipy.linalg.eigh(
            symmetric.numpy(), subset_by_index=(side - d, side - 1)
        )
        values, vectors = map(torch.from_numpy, pair)
    return values[-d:].flip(0), vectors[:, -d:].flip(1)


def _check_dimension(d: int, p: int) -> None:
    if not 1 <= d <= p:
        raise ParameterError(f"d={d}: 1 … {p} are allowed, the number of coefficients")


def _check_rank(values: Tensor) -> None:
    # What rounding leaves of a zero eigenvalue stays well below this.
    rank = int((values > 1e-12 * values[0].clamp(min=0)).sum())
    if rank < len(values):
        raise ParameterError(
            f"d={len(values)}: the data have {rank} dimensions only; choose d ≤ {rank}"
        )
