"""Whitening at sizes where no covariance fits into memory: block Krylov iteration.

Each pass over the data multiplies the covariance C by a block of directions, and the
Krylov space of all blocks holds the leading eigenvectors to a precision that grows with
their number (Musco & Musco 2015). The eigenvectors are taken from Nyström's
approximation of C by what the passes have given, which is that of one more half-pass
(Tropp et al. 2017).
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.whitening import Whitening

# Gives the same rows at every call, in batches; called once a pass.
Stream = Callable[[], Iterable[Float[Tensor, "_ p"]]]


def fit(
    stream: Stream,
    d: int,
    *,
    n_passes: int = 4,
    oversampling: int = 64,
    seed: int,
) -> Whitening:
    """Return the whitening of rows that are read `n_passes` times.

    Products are taken in float32 on the rows' device, where all of this happens; with
    b = d + `oversampling` columns a block, memory holds about 2 `n_passes` b p numbers
    besides a batch, and a pass takes 4 b p operations a row.

    Under `torch.distributed`, each process reads its own share of the rows, and all
    return the same.

    Parameters
    ----------
    stream
        Called once a pass; gives the rows x, in batches, the same every time.
    d
        Components that are kept: less than n, at most p.
    n_passes
        At least 2. More of them, or a larger block, are more precise.
    oversampling
        ≥ 0; columns beyond d, fewer where p has no more.
    seed
        ≥ 0. Of the first block.

    Raises
    ------
    ParameterError
        If a value is out of range, n or p is too small for d, or some row is not
        finite.
    """
    if n_passes < 2 or oversampling < 0:
        raise ParameterError(
            f"n_passes={n_passes}, oversampling={oversampling}: at least 2 and 0 are "
            "allowed"
        )
    first = next(iter(stream()), None)
    if first is None:
        raise ParameterError("no rows: more than d are wanted")
    p = first.shape[1]
    if not 1 <= d <= p:
        raise ParameterError(f"d={d}: 1 … {p} are allowed, the number of coefficients")
    b = min(d + oversampling, p)
    n_passes = min(n_passes, -(-p // b))  # no more blocks than there are directions
    shift = _shared(first.float().mean(0), from_first=True)
    noise = torch.Generator().manual_seed(seed)
    block = torch.randn(p, b, generator=noise).to(first.device)
    basis = torch.empty(p, 0, device=first.device)
    image = torch.empty(p, 0, device=first.device)
    for _ in range(n_passes):
        block = _orthonormal(block, basis)
        basis = torch.cat([basis, block], 1)
        n, total, squares, product = _multiplied(stream, shift, block)
        if n <= d:
            raise ParameterError(f"n={n} images: more than d={d} are wanted")
        offset = total / n
        # Of centred rows: those of shifted rows, less n offset offsetᵀ.
        product -= n * torch.outer(offset, offset @ block.double())
        block = (product / (n - 1)).float()
        image = torch.cat([image, block], 1)
    variance = (squares - n * offset.square().sum()) / (n - 1)
    values, vectors = _nystrom(basis, image, d)
    peak = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    components = (vectors * peak.sign()).T.double()
    return Whitening(shift.double() + offset, components, values, variance)


def _multiplied(
    stream: Stream, shift: Tensor, block: Tensor
) -> tuple[int, Tensor, Tensor, Tensor]:
    """Return n, Σ y, Σ ‖y‖² and Σ y yᵀ B of rows y = x − shift, in float64."""
    sums = torch.zeros(block.shape[0] + 2, dtype=torch.float64, device=block.device)
    product = torch.zeros_like(block, dtype=torch.float64)
    for x in _checked(stream()):
        y = x.float() - shift
        sums[0] += len(y)
        sums[1] += y.double().square().sum()
        sums[2:] += y.sum(0)
        product += y.T @ (y @ block)
    sums, product = _shared(sums), _shared(product)
    return int(sums[0]), sums[2:], sums[1], product


def _checked(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    n = 0
    for x in batches:
        if not x.isfinite().all():
            row = n + int((~x.isfinite()).any(1).nonzero()[0])
            raise ParameterError(f"row {row} has values that are not finite")
        n += len(x)
        yield x


def _orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """Return an orthonormal basis of a block's part that is orthogonal to a basis."""
    for _ in range(2):  # once leaves what rounding made of the first subtraction
        block = block - basis @ (basis.T @ block)
        block, _ = torch.linalg.qr(block)
    return block


def _nystrom(basis: Tensor, image: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Return the d largest eigenvalues, falling, and eigenvectors, as columns.

    Of A (BᵀA)⁻¹ Aᵀ, where A = CB: a little of B is added to A, and taken from the
    eigenvalues, since BᵀA may be all but singular (Tropp et al. 2017, algorithm 3).
    """
    little = torch.finfo(image.dtype).eps * torch.linalg.matrix_norm(image, "fro")
    image = image + little * basis
    core = (basis.T @ image).double()
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    floor = values[-1] * torch.finfo(image.dtype).eps
    root = vectors / values.clamp(min=floor).sqrt()
    factor = image @ root.to(image.dtype)
    # Its singular vectors by the Gram matrix, which is small.
    gram = factor.T.double() @ factor.double()
    squares, right = torch.linalg.eigh(gram)
    squares, right = squares[-d:].flip(0), right[:, -d:].flip(1)
    left = factor.double() @ (right / squares.sqrt())
    return squares - little.double(), left.float()


def _shared(tensor: Tensor, *, from_first: bool = False) -> Tensor:
    """Return the sum over all processes, or what the first one has."""
    if dist.is_available() and dist.is_initialized():
        if from_first:
            dist.broadcast(tensor, 0)
        else:
            dist.all_reduce(tensor)
    return tensor
