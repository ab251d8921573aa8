"""The norms of the data, and nothing else of their distribution."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import normalize

from latent_scattering.latents import latent


@dataclass(frozen=True, eq=False)
class NormMatched:
    """A uniform direction times the norm of a training code, drawn with replacement."""

    d: int
    norms: Float32[Tensor, " rows"]
    seconds: float = 0.0
    history: None = None

    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "n d"]:
        """Return n draws."""

        def some(m: int, generator: torch.Generator) -> Tensor:
            direction = normalize(latent.normal(m, self.d, generator, self.norms))
            rows = torch.randint(len(self.norms), (m, 1), generator=generator)
            return direction * self.norms[rows]

        return latent.draw(some, n, seed)


def fit(
    z: Float32[Tensor, "n d"], options: latent.Options, *, seed: int, keep: latent.Keep
) -> NormMatched:
    """Return the model whose norms are those of z."""
    return NormMatched(z.shape[1], z.norm(dim=1))
