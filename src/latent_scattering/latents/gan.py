"""The generative adversarial network of z (Goodfellow et al. 2014)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn.functional import softplus

from latent_scattering.latents import latent, networks

LOSSES = ("non-saturating", "r1")
BETAS = (0.5, 0.99)  # of Adam; with more momentum the two players circle


@dataclass(frozen=True, kw_only=True)
class Options(networks.Options):
    """What can be chosen."""

    loss: str = "non-saturating"
    """With D(z) the log-odds that z is real and ς the softplus, the discriminator
    minimises E ς(−D(z)) + E ς(D(G(h))) and the generator E ς(−D(G(h))) (Goodfellow et
    al. 2014, section 3). ``"r1"`` adds γ/2 E‖∇D(z)‖² on real z to the former
    (Mescheder et al. 2018, eq. 9)."""
    gamma: float = 0.1
    """γ ≥ 0; of ``"r1"`` alone."""
    latent_dim: int = 64
    """H, dimension of the noise h (Ziomek & Farrahi, section 5.1)."""
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        latent.one_of(LOSSES, loss=self.loss)
        latent.at_least(0, gamma=self.gamma)
        latent.at_least(1, latent_dim=self.latent_dim)


class Network(networks.Network):
    """Generator G and discriminator D, which learn simultaneously."""

    def __init__(self, d: int, options: Options) -> None:
        super().__init__()
        leaky, widths = partial(nn.LeakyReLU, 0.2), options.widths
        self.H = options.latent_dim
        self.gamma = options.gamma if options.loss == "r1" else 0.0
        self.G = networks.mlp(self.H, *reversed(widths), d, activation=leaky)
        self.D = networks.mlp(d, *widths, 1, activation=leaky)

    def forward(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return the discriminator's loss plus the generator's.

        Its gradient gives each network that of its own loss: the former has none in G
        and the latter none in D.
        """
        fake = self.G(latent.normal(len(z), self.H, generator, z))
        real = z.detach().requires_grad_(self.gamma > 0)
        on_real, on_fake = self.D(real), self.D(fake)
        loss = softplus(-on_real) + softplus(on_fake)
        if fake.requires_grad:
            # One pass through D serves both players: ς(D) has the slope σ(D), and
            # ς(−D) has −σ(−D) = −exp(−D) σ(D). Beyond e⁶⁰, σ(D) has no digits left.
            ratio = -(-on_fake.detach()).clamp(max=60).exp()
            fake.register_hook(lambda slope: ratio * slope)
        loss = loss + softplus(-on_fake.detach())
        if self.gamma:
            (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            loss = loss + self.gamma / 2 * slope.square().sum(1, keepdim=True)
        return loss.squeeze(1)

    def generate(self, n: int, generator: torch.Generator) -> Tensor:
        """Return G(h) with h ~ N(0, I)."""
        return self.G(latent.normal(n, self.H, generator, next(self.parameters())))


def fit(
    z: Float32[Tensor, "n d"], options: Options, *, seed: int, keep: latent.Keep
) -> networks.Trained:
    """Return the generative adversarial network of z.

    The ``loss`` of its history is the sum of both players' and says little. There are
    besides ``real`` and ``fake``, the mean probabilities that the discriminator gives
    the first training codes, and as many draws, of being real.
    """
    with networks.seeded(seed):
        network = Network(z.shape[1], options)
    model, real = networks.Trained(network), z[: networks.WATCHED]

    def numbers() -> dict[str, float]:
        codes = {"real": real, "fake": model.sample(len(real), seed=seed)}
        device = next(network.parameters()).device
        return {
            k: float(network.D(z.to(device)).sigmoid().mean()) for k, z in codes.items()
        }

    more: dict[str, Any] = {
        "numbers": numbers,
        "seed": seed,
        "betas": BETAS,
        "label": "GAN",
    }
    made = keep(lambda work: networks.train(model, z, options, work, **more))
    return networks.finished(model, made)
