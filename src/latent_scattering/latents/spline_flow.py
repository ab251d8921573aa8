"""A normalising flow of couplings with rational-quadratic splines (Zuko's)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from zuko.flows import NICE
from zuko.nn import MLP
from zuko.transforms import MonotonicRQSTransform

from latent_scattering.errors import ParameterError
from latent_scattering.latents import latent, networks


@dataclass(frozen=True, kw_only=True)
class Options(networks.Options):
    """What can be chosen."""

    n_layers: int = 4
    """Couplings: each transforms every other component, given the rest."""
    n_bins: int = 4
    """Of the splines, on [-5, 5]; components beyond that are left as they are."""
    widths: tuple[int, ...] = (128,)
    n_epochs: int = 6
    patience: int = 1
    """Stop after as many epochs without a higher held-out likelihood; 0: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        latent.at_least(1, n_layers=self.n_layers)
        latent.at_least(2, n_bins=self.n_bins)


class Network(networks.Network):
    """The flow f, z ↦ x ~ N(0, I) (Durkan et al. 2019); at first the identity.

    Zuko's own spline flow makes a coupling of two passes of a masked network. These
    couplings take half the time.
    """

    def __init__(self, d: int, options: Options) -> None:
        super().__init__()
        n_bins, self.d = options.n_bins, d
        self.flow = NICE(
            d,
            transforms=options.n_layers,
            univariate=MonotonicRQSTransform,
            shapes=[(n_bins,), (n_bins,), (n_bins - 1,)],
            hidden_features=options.widths,
        )
        # A spline whose parameters are all 0 is the identity.
        for module in self.flow.modules():
            if isinstance(module, MLP):
                for parameter in module[-1].parameters():
                    nn.init.zeros_(parameter)

    def forward(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return −log p(z)."""
        return -self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log N(f(z); 0, I) + log |det ∂f/∂z|."""
        return self.flow().log_prob(z)

    def generate(self, n: int, generator: torch.Generator) -> Tensor:
        """Return f⁻¹(x) with x ~ N(0, I)."""
        x = latent.normal(n, self.d, generator, next(self.parameters()))
        return self.flow().transform.inv(x)


@dataclass(frozen=True, eq=False)
class SplineFlow(networks.Trained):
    """A trained flow."""

    network: Network

    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return log-densities in nats."""
        device = next(self.network.parameters()).device
        return latent.each(lambda some: self.network.log_prob(some.to(device)), z)


def fit(
    z: Float32[Tensor, "n d"], options: Options, *, seed: int, keep: latent.Keep
) -> SplineFlow:
    """Return the flow of maximal likelihood on nine tenths of z.

    The other tenth, drawn by the seed, decides when to stop; its mean log-density is
    ``held_out`` of the history. The weights are those of the last epoch.

    Raises
    ------
    ParameterError
        If there are fewer than 2 codes.
    """
    if len(z) < 2:
        raise ParameterError(f"{len(z)} code: at least 2 allow to hold one out")
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    held_out, kept = z[order].tensor_split([-(-len(z) // 10)])
    with networks.seeded(seed):
        model = SplineFlow(Network(z.shape[1], options))
    more: dict[str, Any] = {
        "numbers": lambda: {"held_out": float(model.log_prob(held_out).mean())},
        "monitor": "held_out",
        "patience": options.patience,
        "seed": seed,
        "label": "spline flow",
    }
    made = keep(lambda work: networks.train(model, kept, options, work, **more))
    return networks.finished(model, made)
