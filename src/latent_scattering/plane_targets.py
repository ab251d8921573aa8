"""Densities in the plane, and planar flows from N(0, I) to them (Xu et al., §4.1)."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from latent_scattering import training
from latent_scattering.errors import ParameterError
from latent_scattering.planar_flow import PlanarFlow
from latent_scattering.store import Store

SIDE, STEP = 8.0, 0.02  # of the square and the grid on which densities are integrated
NODES = 40  # of Gauss–Hermite quadrature, along each axis
LOG_2PI = math.log(2 * math.pi)


def _mixture(x: Tensor, y: Tensor) -> Tensor:
    """Return the energy of ½ N((−1.5, −1.5), I) + ½ N((1.5, 1.5), I)."""
    modes = [((x - m).square() + (y - m).square()) / 2 for m in (-1.5, 1.5)]
    return math.log(2) + LOG_2PI - torch.logaddexp(-modes[0], -modes[1])


def _well(t: Tensor, width: float) -> Tensor:
    return (t / width).square() / 2


def _ring(x: Tensor, y: Tensor) -> Tensor:
    sides = torch.logaddexp(-_well(x - 2, 0.6), -_well(x + 2, 0.6))
    return _well((x.square() + y.square()).sqrt() - 2, 0.4) - sides


def _wave(x: Tensor, y: Tensor) -> Tensor:
    return _well(y - _w1(x), 0.4) + _ends(x)


def _split(x: Tensor, y: Tensor) -> Tensor:
    t, w2 = y - _w1(x), 3 * (-_well(x - 1, 0.6)).exp()
    return _ends(x) - torch.logaddexp(-_well(t, 0.35), -_well(t + w2, 0.35))


def _step(x: Tensor, y: Tensor) -> Tensor:
    t, w3 = y - _w1(x), 3 * logsigmoid((x - 1) / 0.3).exp()
    return _ends(x) - torch.logaddexp(-_well(t, 0.4), -_well(t + w3, 0.35))


def _w1(x: Tensor) -> Tensor:
    return (math.pi * x / 2).sin()


def _ends(x: Tensor) -> Tensor:
    """Return what ends the waves softly at |x| = 4: as printed, they never end."""
    return _well((x.abs() - 4).relu(), 0.4)


# The mixture of Xu et al., with the unit covariances and equal weights that they do not
# state, and the energies U of Rezende & Mohamed, Table 1; densities are ∝ exp(−U).
ENERGIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mixture": _mixture,
    "U1": _ring,
    "U2": _wave,
    "U3": _split,
    "U4": _step,
}


class Target:
    """A density in the plane.

    Parameters
    ----------
    name
        One of `ENERGIES`.

    Raises
    ------
    ParameterError
        If there is no such density.
    """

    def __init__(self, name: str) -> None:
        if name not in ENERGIES:
            raise ParameterError(f"target {name!r}: not one of {', '.join(ENERGIES)}")
        self.name, self.energy = name, ENERGIES[name]
        axis = torch.arange(-SIDE, SIDE, STEP, dtype=torch.float64)
        x, y = torch.meshgrid(axis, axis, indexing="ij")
        sums = (-self.energy(x, y)).flatten().logsumexp(0)
        self.log_norm = float(sums) + 2 * math.log(STEP)
        """Logarithm of ∫ exp(−U), by the rectangle rule."""

    def log_prob(self, z: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """Return log-densities, in nats."""
        return -self.energy(z[:, 0], z[:, 1]) - self.log_norm


@dataclass(frozen=True, eq=False)
class Fit:
    """A flow from N(0, I) to a target."""

    flow: PlanarFlow
    """In evaluation mode."""
    target: Target
    history: pd.DataFrame
    """A row an epoch; ``loss`` is KL(q ‖ p) in nats, on that epoch's draws."""

    @torch.no_grad()
    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "n 2"]:
        """Return n draws of q."""
        return self.flow(_normal(n, seed).to(self.flow.planes)).z.cpu()

    @torch.no_grad()
    def divergence(self, n: int = 100_000, *, seed: int) -> tuple[float, float]:
        """Return KL(q ‖ p) in nats, by n draws, and its standard error."""
        z = _normal(n, seed).to(self.flow.planes)
        costs = _costs(self.flow, self.target, z).double()
        return float(costs.mean()), float(costs.std()) / n**0.5


def fit(
    name: str,
    *,
    K: int,
    n_epochs: int = 1_500,
    batch_size: int = 512,
    learning_rate: float = 1e-2,
    constrained: bool = True,
    seed: int,
    store: Store,
) -> Fit:
    """Return K planar flows that minimise KL(q ‖ p), q that of z_K with z ~ N(0, I).

    Parameters
    ----------
    name
        Of the target, one of `ENERGIES`.
    K, constrained
        See `PlanarFlow`.
    n_epochs, batch_size, learning_rate
        Each epoch is one step of Adam on fresh draws; the paper states n_epochs alone.
    seed
        Of the initial flows and of the draws.
    store
        Where it is kept.

    Raises
    ------
    ParameterError
        If a value is out of range.
    TrainingError
        If the training diverges.
    """
    target = Target(name)
    flow = PlanarFlow(2, K, constrained=constrained, seed=seed)
    if batch_size < 1:
        raise ParameterError(f"batch_size={batch_size}: at least 1 is allowed")

    def loss(
        model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> Tensor:
        (empty,) = batch
        z = torch.randn(empty.shape, generator=generator, device=generator.device)
        return _costs(model, target, z).mean()

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        history = training.fit(
            flow,
            loss,
            (torch.zeros(batch_size, 2),),
            n_epochs=n_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            workspace=work,
            label=f"{name}, K={K}",
        )
        return flow.state_dict(), {"history": history.to_dict("records")}

    parameters = {
        "name": name,
        "K": K,
        "n_epochs": n_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "constrained": constrained,
        "seed": seed,
    }
    made = store.get("plane-flow", parameters, make)
    return Fit(flow, target, training.restored(flow, made))


def best_gaussian(target: Target) -> float:
    """Return the least KL(N(μ, LLᵀ) ‖ p) in nats over all Gaussians.

    By Gauss–Hermite quadrature, from starts at the origin and at (±1.5, ±1.5).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    e = torch.tensor(list(itertools.product(nodes, nodes)), dtype=torch.float64)
    w = torch.tensor(np.outer(weights, weights).ravel() / (2 * math.pi))

    def divergence(theta: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.tensor(theta, requires_grad=True)
        (a, b, c), mean = t[:3], t[3:]
        z = mean + torch.stack([a.exp() * e[:, 0], c * e[:, 0] + b.exp() * e[:, 1]], 1)
        entropy = 1 + LOG_2PI + a + b
        value = -entropy - w @ target.log_prob(z)
        (slope,) = torch.autograd.grad(value, t)
        return value.item(), slope.numpy()

    starts = [np.array([0, 0, 0, m, n]) for m in (-1.5, 1.5) for n in (-1.5, 1.5)]
    starts = [np.zeros(5), *starts]
    return min(float(minimize(divergence, s, jac=True).fun) for s in starts)


def _costs(flow: nn.Module, target: Target, z: Tensor) -> Tensor:
    """Return log q(z_K) − log p(z_K) of points z, which are taken to z_K."""
    z_K, log_det = flow(z)
    log_base = -z.square().sum(1) / 2 - LOG_2PI
    return log_base - log_det - target.log_prob(z_K)


def _normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))
