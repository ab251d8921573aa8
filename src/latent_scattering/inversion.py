"""The inversion of the embedding: a generator fitted to give the images back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Float32, UInt8
from lightning_fabric import Fabric
from torch import Tensor, nn

from latent_scattering import metrics, training
from latent_scattering.generator import CHUNK, Generator, Variant, architecture
from latent_scattering.pixels import to_signed
from latent_scattering.store import Store

WATCHED = 1_024  # training images, the first ones, whose PSNR is taken every epoch


@dataclass(frozen=True)
class Inversion:
    """A fitted generator and how it came about."""

    generator: Generator
    """In evaluation mode."""
    history: pd.DataFrame
    """A row an epoch: epoch, loss, psnr_train, psnr_test (dB), seconds, …"""
    seconds: float
    """Of the training, validation included, over all sessions it took."""
    key: str
    """Of its artefact."""


def fit(
    train: tuple[UInt8[Tensor, "n c M N"], Float32[Tensor, "n d"]],
    test: tuple[UInt8[Tensor, "n_test c M N"], Float32[Tensor, "n_test d"]],
    *,
    variant: Variant = "code",
    n_epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    patience: int = 0,
    seed: int,
    store: Store,
    inputs: Sequence[str],
) -> Inversion:
    """Return the generator that minimises n⁻¹ Σ ‖xᵢ − G(Φ(xᵢ))‖₁ (A & M, eq. 1).

    The error is the mean over pixels, on [-1, 1]; Adam has its default
    hyperparameters. The result is an artefact, and an interrupted training goes on
    from its last checkpoint. CUDA is used where there is one, in bfloat16 where it
    has that.

    Parameters
    ----------
    train, test
        Images and their codes. Test images are only watched, and decide when to stop.
    variant
        See `Generator`; its sizes are those of `architecture`.
    n_epochs, batch_size, learning_rate
        See `training.fit`.
    patience
        Stop after as many epochs without a higher test PSNR; 0: never. The weights
        are those of the last epoch.
    seed
        Of the initial weights and of the order of the images.
    store
        Where the generator is kept.
    inputs
        Keys or digests that identify the images and the codes.

    Raises
    ------
    ParameterError
        If a value is out of range.
    TrainingError
        If the training diverges.
    """
    pixels, z = train
    _, c, M, N = pixels.shape
    shape, d = (c, M, N), z.shape[1]
    generator = Generator(
        d, shape, variant=variant, **architecture(shape)._asdict(), seed=seed
    )
    watched = {"psnr_train": (pixels[:WATCHED], z[:WATCHED]), "psnr_test": test}

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        history = training.fit(
            generator,
            _mean_absolute_error,
            (pixels, z),
            n_epochs=n_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            fabric=_fabric(),
            workspace=work,
            validate=lambda model: {k: _psnr(model, *v) for k, v in watched.items()},
            monitor="psnr_test",
            patience=patience,
            label="inversion",
        )
        return generator.state_dict(), {"history": history.to_dict("records")}

    parameters = {
        "d": d,
        "shape": shape,
        "variant": variant,
        "n_epochs": n_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
        "seed": seed,
    }
    made = store.get("inversion", parameters, make, inputs=inputs)
    history = training.restored(generator, made)
    return Inversion(generator, history, float(history.seconds.iloc[-1]), made.key)


@torch.no_grad()
def decode(generator: nn.Module, z: Float[Tensor, "n d"]) -> Float32[Tensor, "n c M N"]:
    """Return G(z), clipped to [-1, 1], on the device of z.

    In chunks, without gradients, in the generator's present mode (that of evaluation,
    after `fit`).
    """
    weight = next(generator.parameters())
    chunks = (generator(chunk.to(weight)) for chunk in z.split(CHUNK))
    return torch.cat([chunk.clamp(-1, 1).to(z.device) for chunk in chunks])


def _mean_absolute_error(
    model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
) -> Tensor:
    pixels, z = batch
    return (model(z) - to_signed(pixels)).abs().mean()


def _psnr(model: nn.Module, pixels: Tensor, z: Tensor) -> float:
    """Return the PSNR of all images at once, which never are in memory as floats."""
    errors = torch.zeros((), dtype=torch.float64)
    for some, codes in zip(pixels.split(CHUNK), z.split(CHUNK), strict=True):
        errors += (decode(model, codes) - to_signed(some)).double().square().sum().cpu()
    return metrics.psnr_of_mse(errors.item() / pixels.numel())


def _fabric() -> Fabric:
    cuda = torch.cuda.is_available()
    half = cuda and torch.cuda.is_bf16_supported()
    return Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=1,
        precision="bf16-mixed" if half else "32-true",
    )
