"""Densities in the plane, and planar flows from N(0, I) to them (Xu et al., §4.1)."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from latent_scattering import training
from latent_scattering.errors import ParameterError
from latent_scattering.planar_flow import Flowed, flow, initial, inverse, slopes
from latent_scattering.store import Store

SIDE, STEP = 8.0, 0.02  # of the square and the grid on which densities are integrated
NODES = 40  # of Gauss–Hermite quadrature, along each axis
BLOCK = 100  # steps whose draws are made at once, and at most those of an epoch
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


class _Flows(nn.Module):
    """K planar flows for each target and seed, trained together."""

    trace: Tensor
    step: Tensor

    def __init__(
        self,
        targets: Sequence[Target],
        K: int,
        *,
        constrained: bool,
        n_steps: int,
        seeds: Sequence[int],
    ) -> None:
        super().__init__()
        self.targets, self.constrained = targets, constrained
        first = [initial(2, K, constrained=constrained, seed=seed) for seed in seeds]
        planes = torch.stack(first).expand(len(targets), -1, -1, -1)
        self.planes = nn.Parameter(planes.clone())
        self.register_buffer("trace", torch.zeros(n_steps, *planes.shape[:2]))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def flow(self, z: Float[Tensor, "seeds n 2"]) -> Flowed:
        """Return z_K and log |det ∂z_K/∂z|, targets first."""
        z = z.expand(len(self.targets), -1, -1, -1)
        return Flowed(*flow(z, self.planes, constrained=self.constrained))

    def costs(self, z: Float[Tensor, "seeds n 2"]) -> Float[Tensor, "targets seeds n"]:
        """Return log q(z_K) − log p(z_K) of points z, which are taken to z_K."""
        z_K, log_det = self.flow(z)
        log_p = [
            target.log_prob(of_target.flatten(0, 1)).view(z.shape[:2])
            for target, of_target in zip(self.targets, z_K, strict=True)
        ]
        log_base = -z.square().sum(-1) / 2 - LOG_2PI
        return log_base - log_det - torch.stack(log_p)

    def forward(self, z: Float[Tensor, "seeds n 2"]) -> Tensor:
        """Return the mean costs, and keep them."""
        means = self.costs(z).mean(-1)
        self.trace[self.step] = means.detach()
        self.step += 1
        return means


@dataclass(frozen=True, eq=False)
class Fit:
    """Flows from N(0, I) to targets; what they return has targets, then seeds first."""

    network: _Flows
    """In evaluation mode, on CUDA's device where there is one."""
    names: tuple[str, ...]
    """Of the targets."""
    seeds: tuple[int, ...]
    """Of the initial flows and of the draws."""

    @property
    def trace(self) -> Float32[Tensor, "steps targets seeds"]:
        """KL(q ‖ p) in nats, on each step's draws."""
        return self.network.trace.cpu()

    @torch.no_grad()
    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "targets seeds n 2"]:
        """Return n draws of q."""
        return self.network.flow(self._normal(n, seed)).z.cpu()

    @torch.no_grad()
    def divergence(
        self, n: int = 100_000, *, seed: int
    ) -> tuple[Float64[Tensor, "targets seeds"], Float64[Tensor, "targets seeds"]]:
        """Return KL(q ‖ p) in nats, by n draws, and its standard error.

        Of flows that are not invertible, it is that of no density: see `slopes`.
        """
        costs = self.network.costs(self._normal(n, seed)).double().cpu()
        return costs.mean(-1), costs.std(-1) / n**0.5

    def log_prob(self, z: Float[Tensor, "n 2"]) -> Float[Tensor, "targets seeds n"]:
        """Return log q, in nats; ParameterError if a flow is not invertible."""
        planes, constrained = self.network.planes.detach(), self.network.constrained
        z = z.to(planes).expand(*planes.shape[:2], -1, -1)
        start = inverse(z, planes, constrained=constrained)
        log_det = flow(start, planes, constrained=constrained).log_det
        return (-start.square().sum(-1) / 2 - LOG_2PI - log_det).cpu()

    def slopes(self) -> Float32[Tensor, "targets seeds K"]:
        """Return each flow's wᵀû: it is invertible above −1."""
        return slopes(self.network.planes, constrained=self.network.constrained).cpu()

    def _normal(self, n: int, seed: int) -> Tensor:
        """Return the same draws for all targets and seeds."""
        return _normal(n, seed).to(self.network.planes).expand(len(self.seeds), -1, -1)


def fit(
    names: Sequence[str],
    *,
    K: int,
    n_steps: int = 1_500,
    batch_size: int = 512,
    learning_rate: float = 1e-2,
    constrained: bool = True,
    seeds: Sequence[int],
    store: Store,
) -> Fit:
    """Return K planar flows that minimise KL(q ‖ p), q that of z_K with z ~ N(0, I).

    Those of all targets and seeds are trained at once, without knowing of one another:
    a seed has the same initial flows and draws for any target, K and set of seeds.

    Parameters
    ----------
    names
        Of the targets, in `ENERGIES`.
    K, constrained
        See `planar_flow.PlanarFlow`.
    n_steps, batch_size, learning_rate
        Steps of Adam, each on fresh draws. The paper states 1,500 epochs, and no more.
    seeds
        One or more, ≥ 0, all different.
    store
        Where they are kept.

    Raises
    ------
    ParameterError
        If a value is out of range.
    TrainingError
        If a training diverges.
    """
    targets = [Target(name) for name in names]
    if not targets:
        raise ParameterError("0 targets: give at least one")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ParameterError(f"seeds={list(seeds)}: one or more different ones ≥ 0")
    for name, value in {"batch_size": batch_size, "n_steps": n_steps}.items():
        if value < 1:
            raise ParameterError(f"{name}={value}: at least 1 is allowed")
    network = _Flows(targets, K, constrained=constrained, n_steps=n_steps, seeds=seeds)
    per_epoch = math.gcd(n_steps, BLOCK)

    @lru_cache(maxsize=1)
    def draws(block: int) -> Float32[Tensor, "steps seeds n 2"]:
        rows = [
            torch.randn(BLOCK, batch_size, 2, generator=_generator(seed, block))
            for seed in seeds
        ]
        return torch.stack(rows, 1).to(network.planes.device)

    def loss(
        model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> Tensor:
        # Adam treats each number alone, so the sum trains each flow as its own.
        step = int(network.step)
        return model(draws(step // BLOCK)[step % BLOCK]).sum()

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        history = training.fit(
            network,
            loss,
            (torch.zeros(per_epoch * batch_size, 0),),  # there is nothing but the noise
            n_epochs=n_steps // per_epoch,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=0,  # each flow's draws have its own
            workspace=work,
            label=f"{', '.join(names)}, K={K}",
        )
        return network.state_dict(), {"history": history.to_dict("records")}

    parameters = {
        "names": list(names),
        "K": K,
        "n_steps": n_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "constrained": constrained,
        "seeds": list(seeds),
    }
    training.restored(network, store.get("plane-flow", parameters, make))
    return Fit(network, tuple(names), tuple(seeds))


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


def _normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def _generator(seed: int, block: int) -> torch.Generator:
    """Return a generator seeded by both."""
    mixed = np.random.SeedSequence([seed, block]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))
