"""Flow matching: a differential equation that takes N(0, I) to the distribution of z.

Lipman et al. 2023, with the straight paths of their section 4.1 at σ_min = 0.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from latent_scattering.latents import latent, networks

FREQUENCIES = 8  # of the embedding of time


@dataclass(frozen=True, kw_only=True)
class Options(networks.Options):
    """What can be chosen."""

    widths: tuple[int, ...] = (512, 512)
    n_steps: int = 32
    """Equal steps from t = 0 to 1, each by Heun's method, which asks twice for v."""

    unkeyed: ClassVar[frozenset[str]] = networks.Options.unkeyed | {"n_steps"}

    def __post_init__(self) -> None:
        super().__post_init__()
        latent.at_least(1, n_steps=self.n_steps)


class Network(networks.Network):
    """The velocity v(x, t) = c(t) x + a network of x and t, 0 at first.

    c(t) = (2t − 1)/(t² + (1 − t)²) is the velocity if z ~ N(0, I), as whitened codes
    are to second order: what is learned is how they differ from that.
    """

    def __init__(self, d: int, options: Options) -> None:
        super().__init__()
        self.d, self.n_steps = d, options.n_steps
        widths = (d + 2 * FREQUENCIES, *options.widths, d)
        self.layers = networks.mlp(*widths, activation=nn.SiLU)
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return ‖v(x, t) − (z − ε)‖²/d, with x = (1 − t) ε + t z, t uniform."""
        noise = latent.normal(len(z), self.d, generator, z)
        t = torch.rand(len(z), 1, generator=generator, device=generator.device).to(z)
        x = noise + t * (z - noise)
        return (self.velocity(x, t) - (z - noise)).square().mean(1)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v(x, t), with t of shape (n, 1) or (1, 1)."""
        phase = math.pi * t * torch.arange(1, FREQUENCIES + 1).to(x)
        time = torch.cat([phase.cos(), phase.sin()], 1).expand(len(x), -1)
        linear = (2 * t - 1) / (t**2 + (1 - t) ** 2) * x
        return linear + self.layers(torch.cat([x, time], 1))

    def generate(self, n: int, generator: torch.Generator) -> Tensor:
        """Return x at t = 1, where dx/dt = v(x, t) and x ~ N(0, I) at t = 0."""
        x = latent.normal(n, self.d, generator, next(self.parameters()))
        step = 1 / self.n_steps
        for t, after in pairwise(torch.linspace(0, 1, self.n_steps + 1).view(-1, 1, 1)):
            slope = self.velocity(x, t.to(x))
            x = x + step / 2 * (slope + self.velocity(x + step * slope, after.to(x)))
        return x


def fit(
    z: Float32[Tensor, "n d"], options: Options, *, seed: int, keep: latent.Keep
) -> networks.Trained:
    """Return the flow to the distribution of z."""
    with networks.seeded(seed):
        model = networks.Trained(Network(z.shape[1], options))
    more: dict[str, Any] = {"seed": seed, "label": "flow matching"}
    made = keep(lambda work: networks.train(model, z, options, work, **more))
    return networks.finished(model, made)
