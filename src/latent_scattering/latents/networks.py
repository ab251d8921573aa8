"""What the models that are trained share: layers, options, the training itself."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pandas as pd
import torch
from jaxtyping import Float32
from lightning_fabric import Fabric
from torch import Tensor, nn

from latent_scattering import training
from latent_scattering.errors import ParameterError
from latent_scattering.latents import latent
from latent_scattering.store import Artefact

Model = TypeVar("Model", bound="Trained")

SMALL = 2**25  # weights × codes of a step below which threads cost more than they give
WATCHED = 1_024  # training codes, the first ones, on which numbers are taken


class Network(nn.Module):
    """A network that is a model of z."""

    def forward(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return the losses (n,) of codes, whose mean training minimises."""
        raise NotImplementedError

    def generate(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws of z."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Options(latent.Options):
    """What can be chosen for all networks; the defaults suit 60,000 codes."""

    widths: tuple[int, ...] = (256, 256)
    """Of the hidden layers, from the side of z; none: linear maps."""
    n_epochs: int = 30
    """Passes over the training codes, at the most."""
    batch_size: int = 256
    learning_rate: float = 1e-3
    """Adam's."""
    watch: Callable[[Any], Mapping[str, float]] | None = None
    """Called with the model after each epoch; its numbers are columns of the history.
    What it computes cannot be told from its name, so such a fit is not kept."""

    unkeyed: ClassVar[frozenset[str]] = frozenset({"watch"})

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.widths):
            raise ParameterError(f"widths={self.widths}: all must be at least 1")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network."""

    network: Network
    """In evaluation mode, on CUDA's device where there is one."""
    history: pd.DataFrame | None = None
    """A row an epoch: epoch, loss, numbers of the model, …; None while in training."""

    @property
    def seconds(self) -> float:
        """Of the training, validation included, over all sessions it took."""
        return 0.0 if self.history is None else float(self.history.seconds.iloc[-1])

    @torch.no_grad()
    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "n d"]:
        """Return n draws."""
        return latent.draw(self.network.generate, n, seed)


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return fully connected layers with activations between them.

    Parameters
    ----------
    widths
        Of the input, the hidden layers and the output.
    activation
        Made without arguments.
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw the initial weights of what is built within from the seed alone.

    PyTorch's layers (and Zuko's) draw from the global generator; it is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def train(
    model: Trained,
    z: Float32[Tensor, "n d"],
    options: Options,
    work: Path | None,
    *,
    numbers: Callable[[], Mapping[str, float]] = dict,
    seed: int,
    **more: Any,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train a model's network in place; return its weights and the record of it.

    Parameters
    ----------
    model
        What `Options.watch` sees.
    z, options, work, seed
        Training codes, and what `training.fit` wants.
    numbers
        Called after each epoch, for the history.
    more
        Arguments of `training.fit`.
    """

    def validate(network: nn.Module) -> dict[str, float]:
        return {**numbers(), **(options.watch(model) if options.watch else {})}

    n_weights = sum(weight.numel() for weight in model.network.parameters())
    with _threads(1 if n_weights * options.batch_size < SMALL else None):
        history = training.fit(
            model.network,
            lambda network, batch, generator: network(batch[0], generator).mean(),
            (z,),
            n_epochs=options.n_epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=seed,
            fabric=Plain(),
            workspace=work,
            validate=validate,
            **more,
        )
    return model.network.state_dict(), {"history": history.to_dict("records")}


class Plain(Fabric):
    """One process in single precision, without Fabric's wrappers.

    They take an eighth to a fifth of the time of networks as small as these.
    """

    def __init__(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        super().__init__(accelerator=device, devices=1)

    def setup(self, module: nn.Module, *optimizers: Any, **more: Any) -> Any:
        """Return both as they are."""
        return (module, *optimizers)

    def backward(self, tensor: Tensor, *arguments: Any, **more: Any) -> None:
        """Add to the gradients."""
        tensor.backward()


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """Compute with n threads; None: with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def finished(model: Model, made: Artefact) -> Model:
    """Return the model with what `train` has made, now or once."""
    return replace(model, history=training.restored(model.network, made))
