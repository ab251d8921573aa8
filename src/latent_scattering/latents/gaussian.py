"""Independent Gaussians, as Angles & Mallat draw z: the model to be improved on."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.latents import latent


@dataclass(frozen=True, kw_only=True)
class Options(latent.Options):
    """What can be chosen."""

    tau: float = 1.0
    """Standard deviation, > 0; below 1, draws are likelier and less diverse."""

    def __post_init__(self) -> None:
        if not 0 < self.tau < math.inf:
            raise ParameterError(f"tau={self.tau}: must be positive")


@dataclass(frozen=True)
class Gaussian:
    """N(0, τ² I) (Angles & Mallat, section 2.1, with τ = 1)."""

    d: int
    tau: float
    seconds: float = 0.0
    history: None = None

    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "n d"]:
        """Return n draws."""
        tau = torch.tensor(self.tau)
        return latent.draw(
            lambda m, noise: tau * latent.normal(m, self.d, noise, tau), n, seed
        )

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return log-densities in nats."""
        constant = self.d * math.log(self.tau * math.sqrt(2 * math.pi))
        return -z.square().sum(1) / (2 * self.tau**2) - constant


def fit(
    z: Float32[Tensor, "n d"], options: Options, *, seed: int, keep: latent.Keep
) -> Gaussian:
    """Return N(0, τ² I) of the dimension of z; nothing else of z counts."""
    return Gaussian(z.shape[1], options.tau)
