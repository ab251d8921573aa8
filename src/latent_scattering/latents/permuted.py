"""The marginals of the data without any dependence: column-permuted z."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor

from latent_scattering.latents import latent


@dataclass(frozen=True, eq=False)
class Permuted:
    """Every component by itself, from its training values, drawn with replacement."""

    z: Float32[Tensor, "rows d"]
    seconds: float = 0.0
    history: None = None

    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "n d"]:
        """Return n draws."""
        rows, d = self.z.shape

        def some(m: int, generator: torch.Generator) -> Tensor:
            return self.z.gather(0, torch.randint(rows, (m, d), generator=generator))

        return latent.draw(some, n, seed)


def fit(
    z: Float32[Tensor, "n d"], options: latent.Options, *, seed: int, keep: latent.Keep
) -> Permuted:
    """Return the model whose marginals are those of z."""
    return Permuted(z)
