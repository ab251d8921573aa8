"""A mixture of Gaussians, by scikit-learn's expectation maximisation."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.latents import latent

COVARIANCES = ("full", "tied", "diag")
TOLERANCE = 1e-3  # nats per column
RIDGE = 1e-6  # the least on the diagonal of a covariance


@dataclass(frozen=True, kw_only=True)
class Options(latent.Options):
    """What can be chosen."""

    k: int = 10
    """Components, fewer than codes."""
    covariance_type: str = "full"
    """A covariance matrix each, "full"; one for all, "tied"; diagonal ones, "diag"."""
    shrinkage: float = 0.3
    """s ≥ 0: each covariance is (C + λI)/c with λ = s k d/n, where C is that of maximal
    likelihood and c keeps the total variance that of the codes. The fewer codes a
    component has for its d columns, the rounder it is."""
    max_iter: int = 10
    """Steps of expectation maximisation, at the most."""

    def __post_init__(self) -> None:
        latent.at_least(1, k=self.k, max_iter=self.max_iter)
        latent.at_least(0, shrinkage=self.shrinkage)
        latent.one_of(COVARIANCES, covariance_type=self.covariance_type)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Σ wⱼ N(μⱼ, (PⱼPⱼᵀ)⁻¹)."""

    weights: Float32[Tensor, " k"]
    means: Float32[Tensor, "k d"]
    precisions_cholesky: Float32[Tensor, "k d *d"]
    """P, upper triangular; the diagonal alone, if it is all there is."""
    history: pd.DataFrame
    """A row a step: iteration, log_prob (the mean of the training codes, in nats)."""
    seconds: float

    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "n d"]:
        """Return n draws."""

        def some(m: int, generator: torch.Generator) -> Tensor:
            component = self.weights.multinomial(m, True, generator=generator)
            z = latent.normal(m, self.means.shape[1], generator, self.means)
            for j, P in enumerate(self.precisions_cholesky):
                rows = component == j
                z[rows] = self.means[j] + _divided(z[rows], P)
            return z

        return latent.draw(some, n, seed)

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return log-densities in nats."""
        constants = self.weights.log() - z.shape[1] / 2 * math.log(2 * math.pi)

        def some(z: Tensor) -> Tensor:
            logs = [
                constant + _log_density(z - mean, P)
                for constant, mean, P in zip(
                    constants, self.means, self.precisions_cholesky, strict=True
                )
            ]
            return torch.stack(logs).logsumexp(0)

        return latent.each(some, z)


def _divided(x: Tensor, P: Tensor) -> Tensor:
    """Return x P⁻¹."""
    if P.ndim == 1:
        return x / P
    return torch.linalg.solve_triangular(P, x, upper=True, left=False)


def _log_density(x: Tensor, P: Tensor) -> Tensor:
    """Return log N(x; 0, (PPᵀ)⁻¹), but for its constant."""
    y, diagonal = (x * P, P) if P.ndim == 1 else (x @ P, P.diagonal())
    return diagonal.log().sum() - y.square().sum(1) / 2


def fit(
    z: Float32[Tensor, "n d"], options: Options, *, seed: int, keep: latent.Keep
) -> Mixture:
    """Return the mixture of maximal likelihood, regularised.

    Expectation maximisation starts from the clusters of k-means, and ends once a step
    raises the mean log-density by less than 10⁻³ d nats.

    Raises
    ------
    ParameterError
        If there are too many components, or no variance is left within them.
    """
    (n, d), k = z.shape, options.k
    if k >= n:
        raise ParameterError(f"k={k}: at most {n - 1} for {n} codes")

    def make(work: Path | None) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        ridge = max(options.shrinkage * k * d / n, RIDGE)
        em = GaussianMixture(
            k,
            covariance_type=options.covariance_type,
            reg_covar=ridge,
            max_iter=options.max_iter,
            tol=TOLERANCE * d,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            em.fit(z.numpy())
        # The total variance is that within the components and that of their means.
        between = em.weights_ @ (em.means_ - em.weights_ @ em.means_) ** 2
        within = float(z.var(0, correction=0).sum() - between.sum())
        if within < RIDGE * d:
            raise ParameterError(f"k={k}: no variance is left within the components")
        P = em.precisions_cholesky_ * math.sqrt(1 + ridge * d / within)
        if options.covariance_type == "tied":
            P = np.broadcast_to(P, (k, d, d))
        arrays = {"weights": em.weights_, "means": em.means_, "precisions_cholesky": P}
        history = [
            {"iteration": i, "log_prob": float(value)}
            for i, value in enumerate(em.lower_bounds_, 1)
        ]
        tensors = {name: torch.tensor(a).float() for name, a in arrays.items()}
        return tensors, {"history": history}

    made = keep(make)
    history = pd.DataFrame(made.record["history"])
    return Mixture(**made.tensors, history=history, seconds=made.seconds)
