"""The scattering transform of images, equal to kymatio's and several times faster.

S = (x∗φ, |x∗ψ_λ|∗φ, ||x∗ψ_λ|∗ψ_μ|∗φ), sampled every 2^J pixels (Angles & Mallat,
section 3). What makes it fast: all angles are one batch; a convolution followed by
subsampling multiplies only the blocks of the spectrum where the wavelet is not zero,
adding them up to the small spectrum; φ is separable, so averaging and its subsampling
are two small matrix products, or one where the map is small; images go through in
chunks that stay in the cache.
"""

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.wavelets import (
    FilterBank,
    check_scales,
    filter_bank,
    littlewood_paley,
    padded_shape,
)

__all__ = [
    "FilterBank",
    "Path",
    "Scattering2D",
    "alpha",
    "filter_bank",
    "littlewood_paley",
]

NEGLIGIBLE = 1e-8  # of a wavelet's largest value in Fourier: taken as zero
SMALL = 400  # samples of a map that is averaged by one matrix, not by two
# The largest intermediate of a chunk, in complex numbers: a CPU's is to stay in cache
CHUNK = {"cpu": 2**20, "cuda": 2**26}


class Path(NamedTuple):
    """Which wavelets made a channel: `scales` j1 < j2 and `angles` (indices < L)."""

    order: int
    scales: tuple[int, ...]
    angles: tuple[int, ...]


class _Block(NamedTuple):
    """A block of the spectrum, and the range of angles with a wavelet in it."""

    row: int
    column: int
    first: int
    last: int


def _n_channels(J: int, L: int) -> int:
    return 1 + L * J + L**2 * J * (J - 1) // 2


def alpha(J: int, L: int = 8) -> float:
    """Coefficients per pixel, α_J = 2^(−2J) (1 + L J + L² J(J−1)/2).

    Angles & Mallat, section 3: below 1 the transform has fewer numbers than the image.

    Raises:
        ParameterError: J or L is below 1.
    """
    check_scales(J, L)
    return _n_channels(J, L) / 4**J


class Scattering2D(torch.nn.Module):
    """Scattering transform of second order with L angles and scales 2^0 … 2^(J−1).

    Kymatio's definition and its convention: the output lacks the factor 2^J that makes
    subsampling preserve the norm; multiply by 2^J before checking that the transform is
    contractive. A modulus that is 0 has gradient 0.

    Attributes:
        J, shape, L: number of scales, image's sides (M, N) in pixels, number of angles.
        n_channels: K = 1 + L J + L² J(J−1)/2.
        output_shape: (K, M // 2^J, N // 2^J).
        paths: the K channels' paths, in kymatio's order.

    Raises:
        ParameterError: J or L is below 1, or 2^J exceeds a side of the image.
    """

    padding_0: Tensor
    padding_1: Tensor

    def __init__(self, J: int, shape: tuple[int, int], L: int = 8) -> None:
        super().__init__()
        _keep_freed_memory()
        bank = filter_bank(J, shape, L)
        self.J, self.shape, self.L = J, (shape[0], shape[1]), L
        self.n_channels = _n_channels(J, L)
        self.output_shape = (self.n_channels, shape[0] >> J, shape[1] >> J)
        self.paths = _paths(J, L)
        self._blocks: list[list[_Block]] = []
        for j in range(J):
            blocks, psi = _split(bank.psi_hat[j], 2**j)
            self._blocks.append(blocks)
            self._constant(f"psi{j}", psi)
        # φ̂(0, 0) appears in both factors of φ̂(ω) = φ̂(ω1, 0) φ̂(0, ω2) / φ̂(0, 0)
        factors = [
            phi / bank.phi_hat[0, 0].sqrt()
            for phi in (bank.phi_hat[:, 0], bank.phi_hat[0])
        ]
        for j in range(J):
            rows, columns = (_averaging(phi, J, j) for phi in factors)
            if rows.shape[1] * columns.shape[1] <= SMALL:
                self._constant(f"phi{j}", torch.kron(rows, columns))
            else:
                self._constant(f"phi{j}_0", rows)
                self._constant(f"phi{j}_1", columns)
        for axis, side in enumerate(padded_shape(J, shape)):
            padding = _reflection(shape[axis], side)
            self.register_buffer(f"padding_{axis}", padding, persistent=False)

    def _constant(self, name: str, value: Tensor) -> None:
        value = value.to(torch.get_default_dtype())
        self.register_buffer(name, value, persistent=False)

    def forward(self, x: Float[Tensor, "*batch M N"]) -> Float[Tensor, "*batch K m n"]:
        """Scattering coefficients of images (float32 or float64), in the same type.

        Raises:
            ParameterError: the images are not of the shape or type that is allowed.
        """
        if tuple(x.shape[-2:]) != self.shape:
            raise ParameterError(
                f"images of shape {tuple(x.shape)} were given: allowed is (..., "
                f"{self.shape[0]}, {self.shape[1]}); resize them, or make a "
                f"Scattering2D for their shape."
            )
        if x.dtype not in (torch.float32, torch.float64):
            raise ParameterError(
                f"images of type {x.dtype} were given: allowed are torch.float32 and "
                f"torch.float64; convert them."
            )
        images = x.reshape(-1, *self.shape)
        n = self._chunk_size(x.device.type)
        if x.requires_grad and torch.is_grad_enabled() and len(images) > 0:
            out = torch.cat([self._transform(chunk) for chunk in images.split(n)])
        else:
            out = x.new_empty(len(images), *self.output_shape)
            for i in range(0, len(images), n):
                out[i : i + n] = self._transform(images[i : i + n])
        return out.view(*x.shape[:-2], *self.output_shape)

    def _chunk_size(self, device: str) -> int:
        """How many images go through at once."""
        M, N = len(self.padding_0), len(self.padding_1)
        order_1 = self.L * M * N
        order_2 = (self.L + 1) * self.L * M * N // 4 if self.J > 1 else 0
        return max(1, CHUNK.get(device, CHUNK["cuda"]) // max(order_1, order_2))

    def _transform(self, x: Float[Tensor, "B M N"]) -> Float[Tensor, "B K m n"]:
        x = x.index_select(1, self.padding_0).index_select(2, self.padding_1)
        x_hat = torch.fft.fft2(x, norm="forward")[:, None]  # (B, 1, M, N)
        order_0 = self._average(x, 0)[:, None]
        U1 = [self._modulus(x_hat, 0, 0)[:, 0]]  # one a scale, (B, L, M/2^j, N/2^j)
        order_1, order_2 = [self._average(U1[0], 0)], []
        for j1 in range(self.J - 1):
            u_hat = torch.fft.fft2(U1[j1], norm="forward")
            if j1 == 0:  # x itself has this resolution: its other scales come along
                u_hat = torch.cat([x_hat, u_hat], 1)
            S2 = []
            for j2 in range(j1 + 1, self.J):
                U = self._modulus(u_hat, j1, j2)
                S = self._average(U, j2)
                if j1 == 0:
                    U1.append(U[:, 0])
                    order_1.append(S[:, 0])
                    S = S[:, 1:]
                S2.append(S)  # (B, L, L, m, n)
            # kymatio's order: angle 1, scale 2, angle 2
            order_2.append(torch.stack(S2, 2).flatten(1, 3))
        return torch.cat([order_0, *order_1, *order_2], 1)

    def _modulus(
        self, x_hat: Complex[Tensor, "B P M1 N1"], j1: int, j2: int
    ) -> Float[Tensor, "B P L M2 N2"]:
        """|x ∗ ψ_j2| sampled every 2^j2 pixels, from the spectrum sampled every 2^j1.

        Subsampling by k adds up the k×k blocks of the spectrum; the blocks where ψ is
        negligible are left out. Complex numbers are handled as pairs of real ones.
        """
        psi = getattr(self, f"psi{j2}").to(x_hat.real.dtype)
        B, P, M1, N1 = x_hat.shape
        k = 2 ** (j2 - j1)
        M2, N2 = M1 // k, N1 // k
        pairs = torch.view_as_real(x_hat).view(B * P, 1, k, M2, k, 2 * N2)
        y = pairs[:, :, 0, :, 0] * psi[0]
        for filters, block in zip(psi[1:], self._blocks[j2][1:], strict=True):
            # a spectrum sampled every 2^j1 has only the lowest frequencies
            row, column = _within(block.row, k, 2**j2), _within(block.column, k, 2**j2)
            if row is not None and column is not None:
                angles = slice(block.first, block.last)
                y[:, angles].addcmul_(pairs[:, :, row, :, column], filters[angles])
        z = torch.view_as_complex(y.view(B, P, self.L, M2, N2, 2))
        z = torch.fft.ifft2(z, norm="forward")
        if z.requires_grad:
            return z.abs()  # its gradient at 0 is 0
        # several times faster than abs()
        squares = torch.view_as_real(z).square_()
        return (squares[..., 0] + squares[..., 1]).sqrt_()

    def _average(
        self, u: Float[Tensor, "*batch M1 N1"], j: int
    ) -> Float[Tensor, "*batch m n"]:
        """U ∗ φ sampled every 2^J pixels, less the padding; U is sampled every 2^j."""
        if hasattr(self, f"phi{j}"):
            both = getattr(self, f"phi{j}").to(u.dtype)
            return (u.flatten(-2) @ both.mT).unflatten(-1, self.output_shape[1:])
        rows = getattr(self, f"phi{j}_0").to(u.dtype)
        columns = getattr(self, f"phi{j}_1").to(u.dtype)
        return rows @ (u @ columns.mT)


def _keep_freed_memory() -> None:
    """Have glibc's malloc reuse blocks below 32 MiB rather than return them.

    Otherwise the pages of each chunk's intermediates are faulted in anew, which can
    double the time. The threshold is dynamic: freeing a block (never touched) of nearly
    the largest size that counts raises it. Without effect on other allocators.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8, device="cpu")


def _paths(J: int, L: int) -> tuple[Path, ...]:
    """Kymatio's order of the channels: by order, scale 1, angle 1, scale 2, angle 2."""
    wavelets = [(j, theta) for j in range(J) for theta in range(L)]
    paths = [Path(0, (), ())]
    paths += [Path(1, (j,), (theta,)) for j, theta in wavelets]
    paths += [
        Path(2, (j1, j2), (theta1, theta2))
        for j1, theta1 in wavelets
        for j2, theta2 in wavelets
        if j1 < j2
    ]
    return tuple(paths)


def _reflection(side: int, padded: int) -> Tensor:
    """Which pixel stands at each position of the padded axis; edges not repeated."""
    period = 2 * (side - 1)
    position = (torch.arange(padded) - (padded - side) // 2) % period
    return torch.minimum(position, period - position)


def _averaging(phi_hat: Float[Tensor, " M"], J: int, j: int) -> Tensor:
    """Matrix (m, M/2^j): convolve with φ, sample every 2^(J−j), drop the padding."""
    size = len(phi_hat) >> j
    kept = torch.cat([phi_hat[: size // 2], phi_hat[-(size // 2) :]])
    phi = torch.fft.ifft(kept).real  # the part at Nyquist is real on the grid, too
    step = 2 ** (J - j)
    at = step * torch.arange(1, size // step - 1)
    return phi[(at[:, None] - torch.arange(size)) % size]


def _split(
    psi_hat: Float[Tensor, "L M N"], k: int
) -> tuple[list[_Block], Float[Tensor, "blocks L M_k pairs"]]:
    """The k×k blocks that are not negligible for all angles; each value twice."""
    L, M, N = psi_hat.shape
    tiles = psi_hat.view(L, k, M // k, k, N // k).permute(1, 3, 0, 2, 4)
    large = tiles.abs().amax((3, 4)) > NEGLIGIBLE * psi_hat.abs().max()  # (k, k, L)
    large[0, 0] = True  # the first block serves all angles: it starts the sum
    blocks, filters = [], []
    for row, column in large.any(2).nonzero().tolist():
        angles = large[row, column].nonzero().flatten().tolist()
        blocks.append(_Block(row, column, angles[0], angles[-1] + 1))
        filters.append(tiles[row, column])
    return blocks, torch.stack(filters).repeat_interleave(2, -1)


def _within(index: int, k: int, K: int) -> int | None:
    """Block `index` of K (frequency 0 first) among the k that are lowest, if it is."""
    if index < (k + 1) // 2:
        return index
    return index - K + k if index >= K - k // 2 else None
