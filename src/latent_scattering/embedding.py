"""The embedding Φ = whitening ∘ scattering: images to codes z."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from tqdm import tqdm

from latent_scattering import randomised, whitening
from latent_scattering.errors import ParameterError
from latent_scattering.pixels import to_unit
from latent_scattering.rows import Rows
from latent_scattering.scattering import Scattering2D
from latent_scattering.store import Store
from latent_scattering.whitening import Whitening

CHUNK = 2**24  # coefficients that are in memory at once: 64 MiB


@dataclass(frozen=True, eq=False)
class Embedding:
    """Φ(x) = Σ_d^(-1/2) (S_J(x) − μ) (Angles & Mallat, section 2.1)."""

    scattering: Scattering2D
    """S_J, of images in [0, 1]; each channel by itself."""
    whitening: Whitening
    """In float32, on the device that computes."""
    key: str
    """The sha256 of J, L and the whitening: what z is made by, whatever made that."""

    def __call__(self, pixels: UInt8[Tensor, "n c M N"]) -> Float32[Tensor, "n d"]:
        """Return the codes z of images, on the CPU."""
        chunks = _stream(self.scattering, pixels, self.whitening.mean.device, "embed")
        return torch.cat([self.whitening.transform(x).cpu() for x in chunks])


def fit(
    pixels: UInt8[Tensor, "n c M N"],
    digest: str,
    *,
    J: int,
    L: int = 8,
    d: int,
    store: Store,
    device: torch.device | None = None,
) -> Embedding:
    """Return the embedding whose whitening is that of these images.

    The whitening is an artefact. It is exact where `whitening.fits` says so, up to
    16,384 coefficients of any number of images; otherwise that of `randomised.fit`.

    Parameters
    ----------
    pixels
        Training images.
    digest
        What identifies them: `Images.digest`.
    J, L
        Of the scattering: it averages over 2^J pixels, with L angles.
    d
        Components that are kept: less than n, at most the number of coefficients.
    store
        Where the whitening is kept.
    device
        By default CUDA's where there is one, else the CPU.

    Raises
    ------
    ParameterError
        If d is too large, or J and L do not suit the images.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    n, c, M, N = pixels.shape
    scattering = Scattering2D(J, (M, N), L=L).to(device)
    p = c * math.prod(scattering.output_shape)
    if not 1 <= d <= min(n - 1, p):  # before it is scattered, which may take hours
        raise ParameterError(
            f"d={d}: {n} images of {p} coefficients allow 1 … {min(n - 1, p)}"
        )

    def coefficients() -> Iterator[Tensor]:
        return _stream(scattering, pixels, device, "whitening")

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        if whitening.fits(n, p):
            return whitening.fit(coefficients(), d).tensors(), {}
        rows = Rows(coefficients, (n, p), folder=work, device=device)
        return randomised.fit(rows, d, seed=0).tensors(), {}

    made = store.get("whitening", {"J": J, "L": L, "d": d}, make, inputs=[digest])
    fitted = Whitening(**made.tensors)
    return Embedding(scattering, fitted.to(device, torch.float32), _key(J, L, fitted))


def embed(
    embedding: Embedding,
    pixels: UInt8[Tensor, "n c M N"],
    digest: str,
    *,
    store: Store,
) -> Float32[Tensor, "n d"]:
    """Return the codes z of images, on the CPU; an artefact.

    Parameters
    ----------
    embedding
        From `fit`.
    pixels, digest
        Images and what identifies them.
    store
        Where the codes are kept.
    """

    def make(work: Path) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        return {"z": embedding(pixels)}, {}

    return store.get("embedding", {}, make, inputs=[embedding.key, digest]).tensors["z"]


def _key(J: int, L: int, fitted: Whitening) -> str:
    digest = hashlib.sha256(f"{J} {L}".encode())
    for tensor in fitted.tensors().values():
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _stream(
    scattering: Scattering2D,
    pixels: UInt8[Tensor, "n c M N"],
    device: torch.device,
    label: str,
) -> Iterator[Float[Tensor, "_ p"]]:
    """Yield the coefficients S_J of images, flattened, in chunks; show progress."""
    p = pixels.shape[1] * math.prod(scattering.output_shape)
    with (
        torch.no_grad(),
        tqdm(total=len(pixels), desc=label, unit="image") as bar,
    ):
        for chunk in pixels.split(max(1, CHUNK // p)):
            yield scattering(to_unit(chunk.to(device))).flatten(1)
            bar.update(len(chunk))
