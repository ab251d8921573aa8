"""The variational autoencoder of z (Kingma & Welling 2014), with β (Higgins 2017)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from latent_scattering.latents import latent, networks


def readings(beta: float, d: int, latent_dim: int) -> dict[str, float]:
    """Return what a published β may mean, as β of our loss (see `Options.beta`).

    A loss "error + β KL" says little without its reductions: the squared error may be
    the mean or the sum over the d components of a code, and the KL divergence that over
    the H of h. Divided so that it is ours, β is

    * β d/2, if the error is a mean and KL a sum;
    * β/2, if both are sums;
    * β d/(2H), if both are means.

    At β = .001, d = 512, H = 64 (Ziomek & Farrahi, Table 2): .256, .0005, .004.
    """
    return {
        "mean error, sum KL": beta * d / 2,
        "sum error, sum KL": beta / 2,
        "mean error, mean KL": beta * d / (2 * latent_dim),
    }


@dataclass(frozen=True, kw_only=True)
class Options(networks.Options):
    """What can be chosen."""

    beta: float = 0.25
    """≥ 0. The loss of a code is ½‖z − ẑ‖² + β KL(q(h | z) ‖ N(0, I)): at β = 1 the
    negative ELBO of a decoder N(ẑ, I), at any β > 0 that of N(ẑ, β I), times β; at 0
    that of an autoencoder. The default is about the first of `readings`."""
    latent_dim: int = 64
    """H, dimension of h (Ziomek & Farrahi, section 5.1)."""
    n_epochs: int = 31
    """Their Table 2."""
    noise: bool = False
    """Draw z from the decoder's N(ẑ, σ² I); without, draws are ẑ itself."""

    unkeyed: ClassVar[frozenset[str]] = networks.Options.unkeyed | {"noise"}

    def __post_init__(self) -> None:
        super().__post_init__()
        latent.at_least(0, beta=self.beta)
        latent.at_least(1, latent_dim=self.latent_dim)


class RateDistortion(NamedTuple):
    """What the h of codes cost, and what they lose."""

    rate: Float[Tensor, " n"]
    """KL(q(h | z) ‖ N(0, I)), in nats."""
    distortion: Float[Tensor, " n"]
    """‖z − ẑ(h)‖²/d, with one h drawn from q(h | z); about 1 if ẑ ignores h."""


class Draw(NamedTuple):
    """One h of each code, drawn from q(h | z), and its price."""

    h: Float[Tensor, "n H"]
    rate: Float[Tensor, " n"]
    """KL(q(h | z) ‖ N(0, I)), or an unbiased estimate."""
    log_ratio: Float[Tensor, " n"]
    """log p(h)/q(h | z)."""


class Network(networks.Network):
    """Encoder q(h | z) = N(μ(z), diag s²(z)) and decoder ẑ(h)."""

    variance: Tensor

    def __init__(self, d: int, options: Options) -> None:
        super().__init__()
        self.d, self.H = d, options.latent_dim
        self.beta, self.noise = options.beta, options.noise
        self.encoder = networks.mlp(d, *options.widths, 2 * self.H)  # to (μ, log s²)
        self.decoder = networks.mlp(self.H, *reversed(options.widths), d)
        self.register_buffer("variance", torch.ones(()))  # σ², of the decoder

    def forward(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return ½‖z − ẑ‖² + β KL."""
        rate, distortion = self.rate_distortion(z, generator)
        return self.d / 2 * distortion + self.beta * rate

    def generate(self, n: int, generator: torch.Generator) -> Tensor:
        """Return ẑ(h) with h ~ N(0, I), plus N(0, σ² I) if `noise`."""
        z = self.decoder(latent.normal(n, self.H, generator, self.variance))
        if self.noise:
            z = z + self.variance.sqrt() * latent.normal(n, self.d, generator, z)
        return z

    def posterior(
        self, z: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return μ, log s², and h drawn from q(h | z)."""
        mean, log_s2 = self.encoder(z).chunk(2, dim=1)
        noise = latent.normal(len(z), self.H, generator, z)
        return mean, log_s2, mean + (log_s2 / 2).exp() * noise

    def draw(self, z: Tensor, generator: torch.Generator) -> Draw:
        """Return an h of each code, and what it costs."""
        mean, log_s2, h = self.posterior(z, generator)
        rate = (mean.square() + log_s2.exp() - log_s2 - 1).sum(1) / 2
        # The constants of p(h) and q(h | z) are the same.
        surprise = (h - mean).square() / log_s2.exp() + log_s2 - h.square()
        return Draw(h, rate, surprise.sum(1) / 2)

    def centre(self, z: Tensor) -> Tensor:
        """Return the h of each code that it is reconstructed from, μ."""
        return self.encoder(z)[:, : self.H]

    def rate_distortion(self, z: Tensor, generator: torch.Generator) -> RateDistortion:
        """See `VAE.rate_distortion`."""
        h, rate, _ = self.draw(z, generator)
        return RateDistortion(rate, (z - self.decoder(h)).square().mean(1))

    def log_likelihood(self, distortion: Tensor) -> Tensor:
        """Return log N(z; ẑ(h), σ² I)."""
        variance = self.variance.to(distortion)
        return -self.d / 2 * (distortion / variance + (2 * math.pi * variance).log())

    def log_weight(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return log p(z, h)/q(h | z), with h drawn from q(h | z)."""
        h, _, log_ratio = self.draw(z, generator)
        return self.log_likelihood((z - self.decoder(h)).square().mean(1)) + log_ratio


@dataclass(frozen=True, eq=False)
class VAE(networks.Trained):
    """A trained variational autoencoder.

    Its likelihood is that of the decoder N(ẑ, σ² I), where σ² is the mean distortion
    of the training codes: what makes their ELBO largest, all else given.
    """

    network: Network

    @property
    def variance(self) -> float:
        """σ²."""
        return float(self.network.variance)

    def reconstruct(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return ẑ of the centre of q(h | z), without noise."""
        net = self.network
        return self._each(lambda z: net.decoder(net.centre(z)), z)

    def rate_distortion(self, z: Float[Tensor, "n d"], *, seed: int) -> RateDistortion:
        """Return the rate and the distortion of each code."""
        noise = torch.Generator().manual_seed(seed)
        both = self._each(
            lambda z: torch.stack(self.network.rate_distortion(z, noise), 1), z
        )
        return RateDistortion(*both.unbind(1))

    def elbo(self, z: Float[Tensor, "n d"], *, seed: int) -> Float[Tensor, " n"]:
        """Return E log p(z | h) − KL in nats, the expectation by one draw of h."""
        rate, distortion = self.rate_distortion(z, seed=seed)
        return self.network.log_likelihood(distortion) - rate

    def importance_weighted(
        self, z: Float[Tensor, "n d"], *, n_samples: int, seed: int
    ) -> Float[Tensor, " n"]:
        """Return log of the mean of n_samples p(z, h)/q(h | z), in nats.

        Its expectation rises with n_samples from the ELBO to log p(z) (Burda et al.
        2016, theorem 1).
        """
        latent.at_least(1, n_samples=n_samples)
        noise = torch.Generator().manual_seed(seed)

        def bound(z: Tensor) -> Tensor:
            logs = [self.network.log_weight(z, noise) for _ in range(n_samples)]
            return torch.stack(logs).logsumexp(0) - math.log(n_samples)

        return self._each(bound, z)

    def _each(self, function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        device = self.network.variance.device
        return latent.each(lambda chunk: function(chunk.to(device)), z)


def fit(
    z: Float32[Tensor, "n d"], options: Options, *, seed: int, keep: latent.Keep
) -> VAE:
    """Return the variational autoencoder of z.

    Its history has the mean ``rate`` and ``distortion`` of the first training codes.
    """
    with networks.seeded(seed):
        model = VAE(Network(z.shape[1], options))
    more: dict[str, Any] = {"seed": seed, "label": "VAE"}
    return networks.finished(
        model, keep(lambda work: train(model, z, options, work, **more))
    )


def train(
    model: VAE,
    z: Float32[Tensor, "n d"],
    options: Options,
    work: Path | None,
    *,
    seed: int,
    label: str,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train a model's network in place; return its weights and the record of it."""

    def numbers() -> dict[str, float]:
        found = model.rate_distortion(z[: networks.WATCHED], seed=seed)
        means = {name: float(x.mean()) for name, x in found._asdict().items()}
        # What is watched may sample with noise.
        model.network.variance.fill_(means["distortion"])
        return means

    weights, record = networks.train(
        model, z, options, work, numbers=numbers, seed=seed, label=label
    )
    distortion = model.rate_distortion(z, seed=seed).distortion
    return {**weights, "variance": distortion.mean()}, record
