"""The variational autoencoder of z with a posterior that planar flows refine."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from latent_scattering import planar_flow
from latent_scattering.latents import latent, networks, vae


@dataclass(frozen=True, kw_only=True)
class Options(vae.Options):
    """What can be chosen."""

    K: int = 5
    """Planar flows; 0: the plain variational autoencoder, to the same weights."""
    amortised: bool = False
    """Each code has flows of its own, from the encoder; else all share K of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        latent.at_least(0, K=self.K)


class Network(vae.Network):
    """Encoder, decoder, and flows from the encoder's Gaussian q_0 to q."""

    def __init__(self, d: int, options: Options) -> None:
        super().__init__(d, options)
        H, K, self.amortised = self.H, options.K, options.amortised
        # After the parent's weights, which are thereby those of the plain autoencoder.
        seed = int(torch.randint(2**31, ()))
        self.planes = nn.Parameter(planar_flow.initial(H, K, seed=seed))
        if self.amortised:
            last = (d, *options.widths)[-1]
            self.amortise = nn.Parameter(torch.zeros(last, K * (2 * H + 1)))

    def flow(self, h: Tensor, z: Tensor) -> planar_flow.Flowed:
        """Return h_K and log |det ∂h_K/∂h|; the flows may depend on the codes."""
        if not self.amortised:
            return planar_flow.flow(h, self.planes)
        own = self.encoder[:-1](z) @ self.amortise
        planes = self.planes + own.view(len(z), *self.planes.shape)
        return planar_flow.flow_each(h, planes)

    def draw(self, z: Tensor, generator: torch.Generator) -> vae.Draw:
        """Return an h_K of each code, and what it costs."""
        h, rate, log_ratio = super().draw(z, generator)
        h_K, log_det = self.flow(h, z)
        # Of log q_K(h_K)/p(h_K) to log q_0(h)/p(h); its mean is that of the rates.
        change = (h_K.square() - h.square()).sum(1) / 2 - log_det
        return vae.Draw(h_K, rate + change, log_ratio - change)

    def centre(self, z: Tensor) -> Tensor:
        """Return where the flows take μ."""
        return self.flow(super().centre(z), z).z


def fit(
    z: Float32[Tensor, "n d"], options: Options, *, seed: int, keep: latent.Keep
) -> vae.VAE:
    """Return the variational autoencoder of z with K planar flows (Xu et al., §4.2).

    Its history has the mean ``rate``, of one draw each, and ``distortion`` of the first
    training codes.
    """
    with networks.seeded(seed):
        model = vae.VAE(Network(z.shape[1], options))
    more: dict[str, Any] = {"seed": seed, "label": "planar VAE"}
    return networks.finished(
        model, keep(lambda work: vae.train(model, z, options, work, **more))
    )
