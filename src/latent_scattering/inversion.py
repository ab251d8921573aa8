"""The inversion of the embedding: a generator fitted to give the images back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Float32, UInt8
from lightning_fabric import Fabric
from torch import Tensor, nn

from latent_scattering import metrics, processes, throughput, training
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
    images_per_second: float
    """That the training took, without validation."""
    share_of_peak: float
    """Operations a second of the training, beside those of a matrix product on the
    same devices with the same threads and numbers; see `throughput`."""
    processes: int
    """That shared the training."""
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
    fabric: Fabric | None = None,
    store: Store,
    inputs: Sequence[str],
) -> Inversion:
    """Return the generator that minimises n⁻¹ Σ ‖xᵢ − G(Φ(xᵢ))‖₁ (A & M, eq. 1).

    The error is the mean over pixels, on [-1, 1]; Adam has its default
    hyperparameters. The result is an artefact, and an interrupted training goes on
    from its last checkpoint.

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
    fabric
        See `training.fit`; by default `fabric_of` one device. With several processes,
        batch norm takes its statistics of each one's share of a batch.
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
    on = fabric or fabric_of()

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        half = on.strategy.precision.precision == "bf16-mixed"
        number = torch.bfloat16 if half else torch.float32
        rates = {
            "operations": throughput.operations(generator, d),
            "matrix_rate": throughput.matrix_rate(on.device, number),
            "processes": on.world_size,
        }
        history = training.fit(
            generator,
            _mean_absolute_error,
            (pixels, z),
            n_epochs=n_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            fabric=on,
            workspace=work,
            validate=lambda model: {k: _psnr(model, *v) for k, v in watched.items()},
            monitor="psnr_test",
            patience=patience,
            label="inversion",
        )
        return generator.state_dict(), {"history": history.to_dict("records"), **rates}

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
    kept = partial(store.get, "inversion", parameters, inputs=inputs)
    made = processes.together(on, kept, make)
    history = training.restored(generator, made)
    took, of = history.iloc[-1], made.record
    speed = len(history) * len(z) / float(took.training_seconds)
    peak = of["processes"] * of["matrix_rate"]
    return Inversion(
        generator,
        history,
        seconds=float(took.seconds),
        images_per_second=speed,
        share_of_peak=speed * of["operations"] / peak,
        processes=of["processes"],
        key=made.key,
    )


def fabric_of(devices: int = 1) -> Fabric:
    """Return Fabric on CUDA, in bfloat16 where it has that, or on a CPU in float32.

    With several devices, a process each, which are yet to be launched.
    """
    cuda = torch.cuda.is_available()
    half = cuda and torch.cuda.is_bf16_supported()
    return Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if half else "32-true",
    )


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
    weight = next(model.parameters())
    errors = torch.zeros((), dtype=torch.float64, device=weight.device)
    for some, codes in zip(pixels.split(CHUNK), z.split(CHUNK), strict=True):
        x = to_signed(some.to(weight.device))
        errors += (decode(model, codes.to(weight)) - x).double().square().sum()
    return metrics.psnr_of_mse(errors.item() / pixels.numel())
