"""A small classifier that a run trains on its own images: classes and features.

What a larger network, trained on other photographs, would see in digits is unknown;
this one needs no weights from elsewhere.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import skip_init

from latent_scattering import training
from latent_scattering.errors import ParameterError
from latent_scattering.pixels import to_pixels, to_unit
from latent_scattering.store import Store

WIDTH = 64  # of the last hidden layer: the number of features
LEAST_SIDE = 8  # pixels
CHUNK = 512  # images that are classified at once

# Bytes, or images on [-1, 1] as `inversion.decode` gives them.
AnyImages = UInt8[Tensor, "n c M N"] | Float[Tensor, "n c M N"]


class Network(nn.Module):
    """Two convolutions 3×3 of 16 and 32 channels, two fully connected layers.

    Each convolution is followed by a ReLU and a maximum over 2×2 pixels; the first
    fully connected layer, by a ReLU, gives the features. Initial weights: He's, no
    biases.

    Parameters
    ----------
    shape
        (c, M, N) of the images; sides of at least 8.
    n_classes
        At least 2.
    seed
        Of the initial weights.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_classes: int, *, seed: int
    ) -> None:
        super().__init__()
        c, M, N = shape

        def convolution(c_in: int, c_out: int) -> list[nn.Module]:
            # Initial weights are drawn below, from the seed alone.
            layer = skip_init(nn.Conv2d, c_in, c_out, 3, padding=1)
            return [layer, nn.ReLU(), nn.MaxPool2d(2)]

        self.hidden = nn.Sequential(
            *convolution(c, 16),
            *convolution(16, 32),
            nn.Flatten(),
            skip_init(nn.Linear, 32 * (M // 4) * (N // 4), WIDTH),
            nn.ReLU(),
        )
        self.classes = skip_init(nn.Linear, WIDTH, n_classes)
        generator = torch.Generator().manual_seed(seed)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(
                    layer.weight, nonlinearity="relu", generator=generator
                )
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "batch c M N"]
    ) -> Float[Tensor, "batch n_classes"]:
        """Return the logits of images on [0, 1]."""
        return self.classes(self.hidden(x))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted network and how it came about.

    Images are bytes, or floats on [-1, 1] that are rounded to bytes first: so real and
    generated images pass by one path, and no rounding tells one from the other. What
    is returned is on the CPU.
    """

    network: Network
    """In evaluation mode."""
    shape: tuple[int, int, int]
    """(c, M, N) of the images it takes."""
    n_classes: int
    history: pd.DataFrame
    """A row an epoch: epoch, loss (cross-entropy in nats), seconds, …"""
    seconds: float
    """Of the training, over all sessions it took."""
    key: str
    """Of its artefact."""

    @torch.no_grad()
    def features(self, images: AnyImages) -> Float32[Tensor, "n 64"]:
        """Return the activations of the last hidden layer, ≥ 0.

        Raises
        ------
        ParameterError
            If the images have another shape, or values that are not finite.
        """
        return torch.cat([self.network.hidden(x).cpu() for x in self._chunks(images)])

    @torch.no_grad()
    def probabilities(self, images: AnyImages) -> Float32[Tensor, "n n_classes"]:
        """Return the probabilities of the classes; raises as `features` does."""
        logits = torch.cat([self.network(x).cpu() for x in self._chunks(images)])
        return logits.softmax(1)

    def accuracy(self, images: AnyImages, labels: Int64[Tensor, " n"]) -> float:
        """Return the share of images whose most probable class is their label."""
        right = self.probabilities(images).argmax(1) == labels
        return float(right.double().mean())

    def _chunks(self, images: AnyImages) -> Iterator[Float32[Tensor, "_ c M N"]]:
        """Yield the images on [0, 1], in chunks, on the network's device."""
        if tuple(images.shape[1:]) != self.shape or not len(images):
            given, wanted = (
                "×".join(map(str, shape)) for shape in (images.shape, self.shape)
            )
            raise ParameterError(f"images {given}: n×{wanted} are allowed, n ≥ 1")
        device = self.network.classes.weight.device
        for chunk in images.split(CHUNK):
            if chunk.is_floating_point():
                if not chunk.isfinite().all():
                    raise ParameterError("some images have values that are not finite")
                chunk = to_pixels(chunk.float())
            yield to_unit(chunk.to(device))


def fit(
    train: tuple[UInt8[Tensor, "n c M N"], Int64[Tensor, " n"] | None],
    *,
    n_epochs: int = 4,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    seed: int,
    store: Store,
    inputs: Sequence[str],
) -> Classifier:
    """Return a classifier of images, trained by Adam on the cross-entropy.

    An artefact; an interrupted training goes on from its last checkpoint. CUDA is used
    where there is one.

    Parameters
    ----------
    train
        Images, of sides ≥ 8, and their classes 0, 1, …, of which there are as many as
        the largest says.
    n_epochs, batch_size, learning_rate
        See `training.fit`. Four epochs suit MNIST's 60,000 images; the 1,437 digits
        want ten.
    seed
        Of the initial weights and of the order of the images.
    store
        Where the network is kept.
    inputs
        Keys or digests that identify the images.

    Raises
    ------
    ParameterError
        If there are no labels, or a value is out of range.
    TrainingError
        If the training diverges.
    """
    pixels, labels = train
    _, c, M, N = pixels.shape
    if labels is None:
        raise ParameterError(
            "this data set has no labels to train a classifier with; compare images by "
            "their pixels or their codes z instead"
        )
    if min(M, N) < LEAST_SIDE:
        raise ParameterError(
            f"images of {M}×{N}: sides of at least {LEAST_SIDE} are allowed"
        )
    found = labels.unique().tolist()
    if len(found) < 2 or found[0] < 0:
        raise ParameterError(
            f"labels {found}: two classes or more of 0, 1, … are wanted"
        )
    n_classes = found[-1] + 1
    shape = (c, M, N)
    network = Network(shape, n_classes, seed=seed)

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        history = training.fit(
            network,
            _loss,
            (pixels, labels),
            n_epochs=n_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            workspace=work,
            label="classifier",
        )
        return network.state_dict(), {"history": history.to_dict("records")}

    parameters = {
        "shape": shape,
        "n_classes": n_classes,
        # A digest of images is not one of their labels.
        "labels": hashlib.sha256(labels.cpu().numpy().tobytes()).hexdigest(),
        "n_epochs": n_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    made = store.get("classifier", parameters, make, inputs=inputs)
    history = training.restored(network, made)
    seconds = float(history.seconds.iloc[-1])
    return Classifier(network, shape, n_classes, history, seconds, made.key)


def _loss(
    model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
) -> Tensor:
    pixels, labels = batch
    return cross_entropy(model(to_unit(pixels)), labels)
