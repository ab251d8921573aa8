"""Generative models of images that are trained end to end: the rivals of two stages.

Both have the architecture of the inversion's generator, but for its H inputs, and so
nearly its cost.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus
from torch.nn.utils import skip_init

from latent_scattering import inversion
from latent_scattering.generator import Generator, architecture
from latent_scattering.latents import latent

SLOPE = 0.2  # of the leaky ReLU, below 0 (Radford et al. 2016)


class Network(nn.Module):
    """A generative model of images on [-1, 1].

    Parameters
    ----------
    shape
        (c, M, N) of the images; see `generator.architecture`.
    latent_dim
        H, dimension of the noise h that images are made of.
    seed
        Of the initial weights.

    Raises
    ------
    ParameterError
        If H < 1.
    """

    betas: tuple[float, float]
    """Of Adam."""
    learning_rate: float
    """Of Adam."""

    def __init__(
        self, shape: tuple[int, int, int], *, latent_dim: int = 64, seed: int
    ) -> None:
        super().__init__()
        latent.at_least(1, latent_dim=latent_dim)
        self.shape, self.H = shape, latent_dim
        sizes = architecture(shape)
        self.G = Generator(latent_dim, shape, **sizes._asdict(), seed=seed)

    def forward(
        self, x: Float[Tensor, "batch c M N"], generator: torch.Generator
    ) -> Tensor:
        """Return the loss of images, a scalar; `generator` draws what it needs."""
        raise NotImplementedError

    def sample(self, n: int, *, seed: int) -> Float[Tensor, "n c M N"]:
        """Return G(h) with h ~ N(0, I), on the CPU, in the network's present mode."""
        noise = torch.Generator().manual_seed(seed)
        return inversion.decode(self.G, torch.randn(n, self.H, generator=noise))


class VAE(Network):
    """A variational autoencoder (Kingma & Welling 2014) of convolutions.

    The decoder is N(G(h), σ² I), with the σ² of highest likelihood for each batch
    (Rybkin et al. 2021, section 3): so there is no β to choose.
    """

    betas = (0.9, 0.999)
    learning_rate = 1e-3

    def __init__(
        self, shape: tuple[int, int, int], *, latent_dim: int = 64, seed: int
    ) -> None:
        super().__init__(shape, latent_dim=latent_dim, seed=seed)
        # To μ and log s² of q(h | x).
        self.encoder = _convolutions(shape, 2 * self.H, seed=seed)

    def forward(
        self, x: Float[Tensor, "batch c M N"], generator: torch.Generator
    ) -> Tensor:
        """Return the negative ELBO in nats an image, less a constant."""
        mean, log_s2 = self.encoder(x).chunk(2, dim=1)
        noise = latent.normal(len(x), self.H, generator, mean)
        h = mean + (log_s2 / 2).exp() * noise
        variance = (x - self.G(h)).square().mean()
        divergence = (mean.square() + log_s2.exp() - log_s2 - 1).sum(1).mean() / 2
        return math.prod(self.shape) / 2 * variance.log() + divergence


class GAN(Network):
    """A generative adversarial network of convolutions (Radford et al. 2016).

    Both players take a step at once, on the non-saturating losses.
    """

    betas = (0.5, 0.999)
    learning_rate = 2e-4

    def __init__(
        self, shape: tuple[int, int, int], *, latent_dim: int = 64, seed: int
    ) -> None:
        super().__init__(shape, latent_dim=latent_dim, seed=seed)
        self.D = _convolutions(shape, 1, seed=seed)

    def forward(
        self, x: Float[Tensor, "batch c M N"], generator: torch.Generator
    ) -> Tensor:
        """Return the discriminator's loss plus the generator's.

        The former has no gradient in G and the latter none in D, so that the gradient
        of the sum gives each network its own.
        """
        fake = self.G(latent.normal(len(x), self.H, generator, x))
        loss = softplus(-self.D(x)) + softplus(self.D(fake.detach()))
        fixed = {name: weight.detach() for name, weight in self.D.named_parameters()}
        return (loss + softplus(-functional_call(self.D, fixed, fake))).mean()


MODELS: dict[str, type[Network]] = {"VAE": VAE, "GAN": GAN}


def _convolutions(
    shape: tuple[int, int, int], n_outputs: int, *, seed: int
) -> nn.Sequential:
    """Return the mirror of a generator: each layer halves the sides.

    Convolutions 4×4 of stride 2 without biases, batch norm in all but the first, leaky
    ReLUs, and a linear map at the end; initial weights N(0, .02²) (Radford et al.).
    """
    c, M, N = shape
    widths: Sequence[int] = (c, *reversed(architecture(shape).widths[:-1]))
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(skip_init(nn.Conv2d, before, after, 4, 2, 1, bias=False))
        if layers[1:]:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.LeakyReLU(SLOPE))
    scale = 2 ** (len(widths) - 1)
    flat = widths[-1] * (M // scale) * (N // scale)
    layers += [nn.Flatten(), skip_init(nn.Linear, flat, n_outputs)]
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, 0, 0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
