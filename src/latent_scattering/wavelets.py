"""The wavelets of the scattering transform: kymatio's Morlet filter bank."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from latent_scattering.errors import ParameterError


class FilterBank(NamedTuple):
    """Low-pass filter and wavelets on the padded grid, in Fourier and in space.

    Frequency and position zero are at index (0, 0); `torch.fft.fftshift` centres them.
    The last two axes are the padded image's; `psi_hat[j, theta]` is centred on the
    frequency (3π/4)/2^j rad/pixel, in the direction (⌊L/2⌋ − 1 − theta)·π/L counted
    from the first (vertical) axis (L = 1: 0).
    """

    phi_hat: Float[Tensor, "M N"]
    psi_hat: Float[Tensor, "J L M N"]

    @property
    def phi(self) -> Float[Tensor, "M N"]:
        """The low-pass filter in space."""
        return torch.fft.ifft2(self.phi_hat).real

    @property
    def psi(self) -> Complex[Tensor, "J L M N"]:
        """The wavelets in space."""
        return torch.fft.ifft2(self.psi_hat)


def check_scales(J: int, L: int) -> None:
    """Raise ParameterError unless J ≥ 1 and L ≥ 1."""
    if J < 1:
        raise ParameterError(f"J = {J} is not allowed: give a number of scales J >= 1.")
    if L < 1:
        raise ParameterError(f"L = {L} is not allowed: give a number of angles L >= 1.")


def _check_shape(J: int, shape: tuple[int, int]) -> None:
    if 2**J > min(shape):
        raise ParameterError(
            f"J = {J} is too large for images of {shape[0]}x{shape[1]} pixels: allowed "
            f"is 2^J <= {min(shape)}, their smaller side (2^J = {2**J} was given); "
            "give a smaller J or larger images."
        )


def padded_shape(J: int, shape: tuple[int, int]) -> tuple[int, int]:
    """The image's sides after padding: multiples of 2^J, at least 2^J larger."""
    rows, columns = ((side // 2**J + 2) * 2**J for side in shape)
    return rows, columns


def filter_bank(J: int, shape: tuple[int, int], L: int = 8) -> FilterBank:
    """Kymatio's filters in Fourier (real), float64, for images of `shape` pixels.

    The wavelets are Morlet wavelets of width σ = 0.8·2^j, frequency ξ = (3π/4)/2^j and
    slant 4/L, for j = 0…J−1 and L angles; φ is a Gaussian of width 0.8·2^(J−1). All are
    made periodic on the padded grid.

    Raises:
        ParameterError: J or L is below 1, or 2^J exceeds a side of the image.
    """
    check_scales(J, L)
    _check_shape(J, shape)
    grid = padded_shape(J, shape)
    psi_hat = torch.empty(J, L, *grid, dtype=torch.float64)
    for j in range(J):
        for theta in range(L):
            angle = (int(L / 2 - 1) - theta) * math.pi / L
            xi = 0.75 * math.pi / 2**j
            psi_hat[j, theta] = _morlet_hat(grid, 0.8 * 2**j, angle, xi, slant=4 / L)
    phi = _gabor(grid, 0.8 * 2 ** (J - 1), angle=0.0, xi=0.0, slant=1.0)
    return FilterBank(torch.fft.fft2(phi).real, psi_hat)


def littlewood_paley(
    J: int, shape: tuple[int, int], L: int = 8
) -> Float[Tensor, "M N"]:
    """The sum |φ̂(ω)|² + ½ Σ (|ψ̂(ω)|² + |ψ̂(−ω)|²) on the padded grid, ω = 0 first.

    The wavelet transform does not expand a signal where the sum is at most 1, and
    loses it where the sum is near 0 (Angles & Mallat, section 3).

    Raises:
        ParameterError: as `filter_bank`.
    """
    bank = filter_bank(J, shape, L)
    energy = bank.psi_hat.square().sum((0, 1))
    # ω → −ω on a periodic grid that starts at ω = 0
    mirrored = energy.flip(0, 1).roll((1, 1), (0, 1))
    return bank.phi_hat.square() + (energy + mirrored) / 2


def _morlet_hat(
    grid: tuple[int, int], sigma: float, angle: float, xi: float, slant: float
) -> Float[Tensor, "M N"]:
    """A Gabor filter less its own envelope, so weighted that the mean is 0; Fourier."""
    gabor = _gabor(grid, sigma, angle, xi, slant)
    envelope = _gabor(grid, sigma, angle, 0.0, slant)
    return torch.fft.fft2(gabor - gabor.sum() / envelope.sum() * envelope).real


def _gabor(
    grid: tuple[int, int], sigma: float, angle: float, xi: float, slant: float
) -> Complex[Tensor, "M N"]:
    """Gaussian times exp(iξ·u), of width σ along ξ and σ/slant across, made periodic.

    Kymatio sums five periods along each axis; here only the positions are visited
    where the Gaussian is not below exp(−40).
    """
    reach = math.ceil(9 * sigma * max(1, 1 / slant))
    x, y = (
        torch.arange(max(-reach, -2 * side), min(reach + 1, 3 * side)) for side in grid
    )
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = x[:, None].double(), y.double()
    along = u * cos + v * sin
    across = (v * cos - u * sin) * slant
    envelope = torch.exp(-(along.square() + across.square()) / (2 * sigma**2))
    # kymatio's normalisation takes 3.1415 for π
    gabor = torch.polar(envelope * slant / (2 * 3.1415 * sigma**2), xi * along)
    periodic = gabor.new_zeros(grid[0], len(y)).index_add_(0, x % grid[0], gabor)
    return gabor.new_zeros(grid).index_add_(1, y % grid[1], periodic)
