"""What a model of the distribution of the codes z is, and what all models share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.store import Artefact

CHUNK = 4_096  # rows that are drawn or evaluated at once

# Of a work folder, or None if what is made is not kept: tensors and a record.
Maker = Callable[[Path | None], tuple[Mapping[str, Tensor], Mapping[str, Any]]]
# Gives what a maker has made, now or once. The maker's module is part of its key.
Keep = Callable[[Maker], Artefact]


@runtime_checkable
class Latent(Protocol):
    """A model of the distribution of z, fitted.

    Those with a likelihood have ``log_prob(z)`` too: (n,) log-densities in nats.
    """

    @property
    def seconds(self) -> float:
        """Of the fit; 0 if there was nothing to fit."""

    @property
    def history(self) -> pd.DataFrame | None:
        """A row an epoch or iteration of the fit, if it has any."""

    def sample(self, n: int, *, seed: int) -> Float32[Tensor, "n d"]:
        """Return n ≥ 1 draws, on the CPU; on any device those of the seed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be chosen for a model: here nothing."""

    unkeyed: ClassVar[frozenset[str]] = frozenset()
    """The options that only matter after the fit."""

    def parameters(self) -> dict[str, Any]:
        """Return the options that the fit depends on."""
        return {k: v for k, v in vars(self).items() if k not in self.unkeyed}


def at_least(least: int, **values: int | float) -> None:
    """Raise ParameterError for the first value that is below, or not finite."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ParameterError(f"{name}={value}: at least {least} is allowed")


def one_of(allowed: Sequence[str], **values: str) -> None:
    """Raise ParameterError for the first value that is not allowed."""
    for name, value in values.items():
        if value not in allowed:
            raise ParameterError(f"{name}={value!r}: not one of {', '.join(allowed)}")


def draw(
    some: Callable[[int, torch.Generator], Tensor], n: int, seed: int
) -> Float32[Tensor, "n d"]:
    """Return n rows of ``some(rows, generator)``, drawn a chunk at a time.

    The generator is on the CPU, so that a seed means the same on every device.
    """
    at_least(1, n=n)
    generator = torch.Generator().manual_seed(seed)
    chunks = [some(min(CHUNK, n - i), generator) for i in range(0, n, CHUNK)]
    return torch.cat([chunk.float().cpu() for chunk in chunks])


@torch.no_grad()
def each(
    function: Callable[[Tensor], Tensor], z: Float[Tensor, "n d"]
) -> Float[Tensor, "n *sizes"]:
    """Return ``function(z)``, which is one of every row, a chunk at a time."""
    return torch.cat([function(chunk).to(z.device) for chunk in z.split(CHUNK)])


def normal(
    n: int, d: int, generator: torch.Generator, like: Tensor
) -> Float[Tensor, "n d"]:
    """Return draws of N(0, I), on the device and of the type of `like`."""
    return torch.randn(n, d, generator=generator, device=generator.device).to(like)
