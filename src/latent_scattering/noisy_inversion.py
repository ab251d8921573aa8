"""A generator that is trained further with noise on its codes: a cheap baseline.

It learns that codes near those of images are images, too, and to ignore components that
noise drowns. A later port of Angles & Mallat's code trains its generator with noise on
its codes; neither of the papers does.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from latent_scattering import training
from latent_scattering.errors import ParameterError
from latent_scattering.generator import Generator
from latent_scattering.inversion import Inversion, fabric_of
from latent_scattering.pixels import to_signed
from latent_scattering.store import Store


def fit(
    inverse: Inversion,
    train: tuple[UInt8[Tensor, "n c M N"], Float[Tensor, "n d"]],
    *,
    deviation: Float[Tensor, " d"],
    n_epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int,
    store: Store,
) -> Generator:
    """Return the generator, trained on to give xᵢ back from zᵢ + ε.

    Parameters
    ----------
    inverse
        From `inversion.fit`; its generator is left as it is.
    train
        The images and codes that it was fitted to.
    deviation
        ≥ 0; of the Gaussian noise ε on each component.
    n_epochs, batch_size, learning_rate, seed
        See `training.fit`.
    store
        Where the generator is kept.

    Raises
    ------
    ParameterError
        If a deviation is negative or not finite, or a value is out of range.
    TrainingError
        If the training diverges.
    """
    if not ((deviation >= 0) & deviation.isfinite()).all():
        raise ParameterError("deviation: some are negative or not finite")
    generator = copy.deepcopy(inverse.generator)

    def loss(
        model: nn.Module, batch: tuple[Tensor, ...], noise: torch.Generator
    ) -> Any:
        pixels, z = batch
        drawn = torch.randn(z.shape, generator=noise, device=z.device)
        return (model(z + deviation.to(z) * drawn) - to_signed(pixels)).abs().mean()

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        history = training.fit(
            generator,
            loss,
            train,
            n_epochs=n_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            fabric=fabric_of(),
            workspace=work,
            label="noisy inversion",
        )
        return generator.state_dict(), {"history": history.to_dict("records")}

    parameters = {
        "deviation": deviation.tolist(),
        "n_epochs": n_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    made = store.get("noisy-inversion", parameters, make, inputs=[inverse.key])
    training.restored(generator, made)
    return generator
