"""Autoencoders of images whose posterior planar flows refine (Xu et al., section 4.2).

Encoder and decoder are fully connected. Several are trained at once, one a seed: all
weights have a leading axis of seeds, and no seed knows of the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import softplus

from latent_scattering import planar_flow, training
from latent_scattering.errors import ParameterError
from latent_scattering.pixels import to_unit
from latent_scattering.store import Store

CHUNK = 512  # images that are evaluated at once


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be chosen; the paper states K, two linear layers and 30 epochs."""

    K: int = 5
    """Planar flows; 0: the plain variational autoencoder."""
    amortised: bool = False
    """Each image has flows of its own, from the encoder; else all share K of them."""
    constrained: bool = True
    """See `planar_flow.flow`; the paper has no constraint."""
    latent_dim: int = 20
    """H, dimension of z."""
    widths: tuple[int, ...] = (400,)
    """Of the hidden layers, from the side of the image."""
    binary: bool = False
    """Pixels are drawn anew in each step, 1 with their value as the probability, as for
    published figures (Burda et al. 2016); else the values themselves are the targets of
    the cross-entropy, which is then no likelihood, but what is common."""
    n_epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    """Adam's."""

    def __post_init__(self) -> None:
        for name, least in [
            ("K", 0),
            ("latent_dim", 1),
            ("n_epochs", 1),
            ("batch_size", 1),
        ]:
            if getattr(self, name) < least:
                raise ParameterError(
                    f"{name}={getattr(self, name)}: at least {least} is allowed"
                )
        if any(width < 1 for width in self.widths):
            raise ParameterError(f"widths={self.widths}: all must be at least 1")


class Elbo(NamedTuple):
    """The two parts of the evidence lower bound, in nats an image."""

    reconstruction: Float[Tensor, "seeds n"]
    """E log p(x | z_K)."""
    divergence: Float[Tensor, "seeds n"]
    """KL(q(z_K | x) ‖ N(0, I))."""

    @property
    def total(self) -> Float[Tensor, "seeds n"]:
        """The bound."""
        return self.reconstruction - self.divergence


class _Linear(nn.Module):
    """A fully connected layer a seed, with the initial weights of PyTorch's."""

    def __init__(self, n_in: int, n_out: int, noise: Sequence[torch.Generator]) -> None:
        super().__init__()
        bound = n_in**-0.5

        def uniform(*shape: int) -> nn.Parameter:
            drawn = [torch.rand(*shape, generator=one) for one in noise]
            return nn.Parameter(bound * (2 * torch.stack(drawn) - 1))

        self.weight, self.bias = uniform(n_in, n_out), uniform(1, n_out)

    def forward(self, x: Float[Tensor, "seeds n n_in"]) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Posterior(NamedTuple):
    """q(z | x) of each image: a Gaussian, and the flows that follow it."""

    mean: Float[Tensor, "seeds n H"]
    log_s2: Float[Tensor, "seeds n H"]
    planes: Float[Tensor, "seeds *n K p"]
    """Those of each image, if amortised."""


class Network(nn.Module):
    """Encoder, planar flows and decoder, of every seed."""

    trace: Tensor
    step: Tensor

    def __init__(
        self, n_pixels: int, options: Options, *, n_steps: int, seeds: Sequence[int]
    ) -> None:
        super().__init__()
        self.options, self.seeds = options, tuple(seeds)
        H, K, p = options.latent_dim, options.K, 2 * options.latent_dim + 1
        noise = [_generator(seed, 0) for seed in seeds]

        def layers(*widths: int) -> nn.Sequential:
            some: list[nn.Module] = []
            for n_in, n_out in pairwise(widths):
                some += [_Linear(n_in, n_out, noise), nn.ReLU()]
            return nn.Sequential(*some[:-1])

        self.encoder = layers(n_pixels, *options.widths, 2 * H)  # to (μ, log s²)
        self.decoder = layers(H, *reversed(options.widths), n_pixels)
        # Whatever the flows, the weights above are the same; the flows start near
        # the identity, so that the first ELBO is about that of the plain autoencoder.
        planes = [
            planar_flow.initial(H, K, constrained=options.constrained, seed=seed)
            for seed in seeds
        ]
        self.planes = nn.Parameter(torch.stack(planes))
        if options.amortised:
            last = (n_pixels, *options.widths)[-1]
            self.amortise = nn.Parameter(torch.zeros(len(seeds), last, K * p))
        self.register_buffer("trace", torch.zeros(n_steps, 2, len(seeds)))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def posterior(self, x: Float[Tensor, "seeds n p"]) -> Posterior:
        """Return the parameters of q(z | x)."""
        hidden = self.encoder[:-1](x)
        mean, log_s2 = self.encoder[-1](hidden).chunk(2, dim=-1)
        planes = self.planes
        if self.options.amortised:
            own = (hidden @ self.amortise).unflatten(-1, planes.shape[1:])
            planes = planes.unsqueeze(1) + own
        return Posterior(mean, log_s2, planes)

    def flow(self, z: Float[Tensor, "seeds n H"], q: Posterior) -> planar_flow.Flowed:
        """Return z_K and log |det ∂z_K/∂z|."""
        flow = planar_flow.flow_each if self.options.amortised else planar_flow.flow
        return planar_flow.Flowed(
            *flow(z, q.planes, constrained=self.options.constrained)
        )

    def elbo(self, x: Float[Tensor, "seeds n p"], noise: Tensor) -> Elbo:
        """Return the parts of the ELBO of images, with one z each.

        The divergence is that of the Gaussian q_0, which has a closed form, plus the
        change by the flows, log N(z; 0, I) − log N(z_K; 0, I) − log |det|, of which one
        draw is an unbiased estimate.
        """
        q = self.posterior(x)
        z = q.mean + (q.log_s2 / 2).exp() * noise
        z_K, log_det = self.flow(z, q)
        gaussian = (q.mean.square() + q.log_s2.exp() - q.log_s2 - 1).sum(-1) / 2
        change = (z_K.square() - z.square()).sum(-1) / 2 - log_det
        return Elbo(log_likelihood(x, self.decoder(z_K)), gaussian + change)

    def log_weight(self, x: Tensor, q: Posterior, noise: Tensor) -> Tensor:
        """Return log p(x, z_K)/q(z_K | x), with one z each."""
        z = q.mean + (q.log_s2 / 2).exp() * noise
        z_K, log_det = self.flow(z, q)
        # The constants of p(z) and q(z | x) are the same.
        surprise = (noise.square() + q.log_s2 - z_K.square()).sum(-1) / 2
        return log_likelihood(x, self.decoder(z_K)) + surprise + log_det

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return −ELBO of each seed (the mean over images), and keep its parts."""
        elbo = self.elbo(x, noise)
        parts = torch.stack([-elbo.reconstruction.mean(1), elbo.divergence.mean(1)])
        self.trace[self.step] = parts.detach()
        self.step += 1
        return parts.sum(0)


def log_likelihood(
    x: Float[Tensor, "*batch p"], logits: Float[Tensor, "*batch p"]
) -> Float[Tensor, "*batch"]:
    """Return Σ x log π + (1 − x) log(1 − π) with π = sigmoid(logits)."""
    return (x * logits).sum(-1) - softplus(logits).sum(-1)


@dataclass(frozen=True, eq=False)
class FlowVAE:
    """Trained autoencoders, one a seed; what they return has seeds first."""

    network: Network
    """In evaluation mode, on CUDA's device where there is one."""
    shape: tuple[int, int, int]
    """(c, M, N) of the images."""
    history: pd.DataFrame
    """A row an epoch; ``loss`` is the sum over seeds. See `curves`."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the initial weights, the order of the images and the noise."""
        return self.network.seeds

    @property
    def trace(self) -> Float32[Tensor, "steps 2 seeds"]:
        """Minus reconstruction, and divergence, of each step's images as trained."""
        return self.network.trace.cpu()

    @property
    def curves(self) -> pd.DataFrame:
        """A row an epoch and seed: epoch, seed, loss, reconstruction, divergence.

        Means over the steps of the epoch, of −ELBO and its parts, in nats an image.
        """
        means = self.trace.unflatten(0, (len(self.history), -1)).mean(1)
        rows = [
            {
                "epoch": epoch,
                "seed": seed,
                "loss": float(values.sum()),
                "reconstruction": float(-values[0]),
                "divergence": float(values[1]),
            }
            for epoch, of_epoch in enumerate(means, 1)
            for seed, values in zip(self.seeds, of_epoch.T, strict=True)
        ]
        return pd.DataFrame(rows)

    def elbo(
        self, pixels: UInt8[Tensor, "n c M N"], *, n_samples: int = 1, seed: int
    ) -> Elbo:
        """Return the parts of the ELBO, expectations by the mean of n_samples draws."""

        def parts(x: Tensor, generator: torch.Generator) -> Tensor:
            draws = [
                torch.stack(self.network.elbo(x, self._normal(x, generator)))
                for _ in range(_at_least_1(n_samples))
            ]
            return torch.stack(draws).mean(0)

        return Elbo(*self._each(parts, pixels, seed))

    def importance_weighted(
        self, pixels: UInt8[Tensor, "n c M N"], *, n_samples: int = 128, seed: int
    ) -> Float32[Tensor, "seeds n"]:
        """Return log of the mean of n_samples p(x, z_K)/q(z_K | x), in nats an image.

        Its expectation rises with n_samples from the ELBO to log p(x) (Burda et al.
        2016, theorem 1).
        """

        def bound(x: Tensor, generator: torch.Generator) -> Tensor:
            q = self.network.posterior(x)
            logs = [
                self.network.log_weight(x, q, self._normal(x, generator))
                for _ in range(_at_least_1(n_samples))
            ]
            return (torch.stack(logs).logsumexp(0) - math.log(n_samples))[None]

        return self._each(bound, pixels, seed)[0]

    def reconstruct(
        self, pixels: UInt8[Tensor, "n c M N"]
    ) -> Float32[Tensor, "seeds n c M N"]:
        """Return the decoder's probabilities at the mean of q_0, moved by the flows."""

        def decoded(x: Tensor, _: torch.Generator) -> Tensor:
            q = self.network.posterior(x)
            return self._decoded(self.network.flow(q.mean, q).z).unsqueeze(0)

        return self._each(decoded, pixels, 0)[0]

    @torch.no_grad()
    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "seeds n c M N"]:
        """Return the decoder's probabilities at n draws of N(0, I), of which z_K is."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(_at_least_1(n), self._H, generator=generator)
        z = z.to(self.network.planes).expand(len(self.seeds), -1, -1)
        chunks = [self._decoded(some) for some in z.split(CHUNK, dim=1)]
        return torch.cat([chunk.cpu() for chunk in chunks], 1)

    def slopes(
        self, pixels: UInt8[Tensor, "n c M N"]
    ) -> Float32[Tensor, "seeds n_or_1 K"]:
        """Return wᵀû of all flows, of each image if amortised: invertible above −1."""
        options = self.network.options

        def of(x: Tensor, _: torch.Generator) -> Tensor:
            planes = self.network.posterior(x).planes
            found = planar_flow.slopes(planes, constrained=options.constrained)
            return (found if options.amortised else found.unsqueeze(1)).unsqueeze(0)

        return self._each(of, pixels if options.amortised else pixels[:1], 0)[0]

    @property
    def _H(self) -> int:
        return self.network.options.latent_dim

    def _normal(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return noise for the z of images: the same for every seed, on any device."""
        return torch.randn(x.shape[1], self._H, generator=generator).to(x)

    def _decoded(self, z: Tensor) -> Tensor:
        return self.network.decoder(z).sigmoid().unflatten(-1, self.shape)

    @torch.no_grad()
    def _each(
        self,
        function: Callable[[Tensor, torch.Generator], Tensor],
        pixels: UInt8[Tensor, "n c M N"],
        seed: int,
    ) -> Tensor:
        """Return ``function(x, generator)``, (m, seeds, n, …), a chunk at a time."""
        generator = torch.Generator().manual_seed(seed)
        found = []
        for chunk in pixels.flatten(1).split(CHUNK):
            x = to_unit(chunk).to(self.network.planes)
            x = x.expand(len(self.seeds), -1, -1)
            found.append(function(x, generator).cpu())
        return torch.cat(found, 2)


def fit(
    pixels: UInt8[Tensor, "n c M N"],
    options: Options,
    *,
    seeds: Sequence[int],
    store: Store,
    inputs: Sequence[str],
) -> FlowVAE:
    """Return autoencoders of maximal ELBO on the images, one a seed, trained at once.

    What a seed gives is the same with and without the others, but for rounding: its
    initial weights, order of the images and noise are its own. With the same seed, two
    sets of options share all three, and the weights that both have.

    Parameters
    ----------
    pixels
        Training images.
    options
        See `Options`.
    seeds
        One or more, ≥ 0, all different.
    store
        Where they are kept.
    inputs
        Keys or digests that identify the images.

    Raises
    ------
    ParameterError
        If a value is out of range.
    TrainingError
        If a training diverges.
    """
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ParameterError(f"seeds={list(seeds)}: one or more different ones ≥ 0")
    n, *shape = pixels.shape
    if n < 1:
        raise ParameterError("0 images: give at least one")
    n_steps = options.n_epochs * math.ceil(n / options.batch_size)
    network = Network(math.prod(shape), options, n_steps=n_steps, seeds=seeds)

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        flat = pixels.flatten(1).to(device)

        def loss(
            model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
        ) -> Tensor:
            # Adam treats each weight alone, so the sum trains each seed as its own.
            x, noise = _draw(flat, batch[0], options, seeds, generator)
            return model(x, noise).sum()

        history = training.fit(
            network,
            loss,
            (_orders(n, seeds),),
            n_epochs=options.n_epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=0,  # that of the order in which all seeds' own orders are read
            workspace=work,
            label=f"VAE, K={options.K}",
        )
        return network.state_dict(), {"history": history.to_dict("records")}

    parameters = {**asdict(options), "shape": list(pixels.shape), "seeds": list(seeds)}
    made = store.get("flow-vae", parameters, make, inputs=inputs)
    history = training.restored(network, made)
    return FlowVAE(network, (shape[0], shape[1], shape[2]), history)


def binarised(
    pixels: UInt8[Tensor, "n c M N"], *, seed: int
) -> UInt8[Tensor, "n c M N"]:
    """Return pixels of 0 and 255, the latter with the probability of their value."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(pixels.shape, generator=generator) < to_unit(pixels)
    return 255 * drawn.to(torch.uint8)


def _orders(n: int, seeds: Sequence[int]) -> Int64[Tensor, "n seeds"]:
    """Return a permutation of the images for each seed."""
    columns = [torch.randperm(n, generator=_generator(seed, 1)) for seed in seeds]
    return torch.stack(columns, 1)


def _draw(
    flat: UInt8[Tensor, "n p"],
    indices: Int64[Tensor, "batch seeds"],
    options: Options,
    seeds: Sequence[int],
    generator: torch.Generator,
) -> tuple[Float32[Tensor, "seeds batch p"], Float32[Tensor, "seeds batch H"]]:
    """Return each seed's images and the noise of their z."""
    device, n = generator.device, len(indices)
    key = int(torch.randint(2**62, (), generator=generator, device=device))
    own = [_generator(seed, 2, key, device=device) for seed in seeds]

    def drawn(some: Callable[..., Tensor], m: int) -> Tensor:
        return torch.stack([some(n, m, generator=one, device=device) for one in own])

    noise, x = drawn(torch.randn, options.latent_dim), to_unit(flat[indices.T])
    if options.binary:
        x = (drawn(torch.rand, flat.shape[1]) < x).float()
    return x, noise


def _generator(*words: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator seeded by all the words."""
    mixed = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed))


def _at_least_1(n: int) -> int:
    if n < 1:
        raise ParameterError(f"{n} draws: at least 1 is allowed")
    return n
