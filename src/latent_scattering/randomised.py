"""Whitening at sizes where no covariance fits into memory: a few passes over the rows.

The first pass shortens every row x to a sketch xΩ of m numbers, where Ω adds up random
groups of coefficients with random signs (Clarkson & Woodruff 2013). The leading left
singular vectors U of all sketches are nearly those of all rows, so that the second pass
gives a block UᵀX whose singular values and vectors are nearly theirs (Halko et al.
2011, section 1.2, with U truncated). Further passes, if wanted, multiply the block by
the covariance C: the Krylov space of all blocks holds the leading eigenvectors to a
precision that grows with their number (Musco & Musco 2015), and they are taken from
Nyström's approximation of C by these products (Tropp et al. 2017).
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.whitening import Whitening, eigenpairs

# Gives the same rows at every call, in batches; called once a pass.
Stream = Callable[[], Iterable[Float[Tensor, "_ p"]]]


def fit(
    stream: Stream,
    d: int,
    *,
    n_passes: int = 2,
    oversampling: int = 64,
    sketch: int = 4,
    seed: int,
) -> Whitening:
    """Return the whitening of rows that are read `n_passes` times.

    Products are taken in float32 on the rows' device, where all of this happens. With
    b = d + `oversampling` and m = `sketch` × b, the first pass takes 2 m² operations a
    row and the second 2 b (m + p); all further ones take 4 b p. Memory holds about
    3 b p numbers besides a batch, and 2 b p more for each pass beyond the second.

    Under `torch.distributed`, each process reads its own share of the rows, and all
    return the same.

    Parameters
    ----------
    stream
        Called once a pass; gives the rows x, in batches, the same every time.
    d
        Components that are kept: less than n, at most p.
    n_passes
        At least 2. More of them are more precise. After 2, the eigenvalues are those
        of the rows' part that U holds, and so a little too small.
    oversampling
        ≥ 0; columns beyond d, fewer where n or p has no more.
    sketch
        At least 1. A row that is not longer than its sketch is its own sketch, and
        the second pass is then exact.
    seed
        ≥ 0. Of Ω.

    Raises
    ------
    ParameterError
        If a value is out of range, n or p is too small for d, some row is not finite,
        or the data have fewer than d dimensions.
    """
    if n_passes < 2 or oversampling < 0 or sketch < 1:
        raise ParameterError(
            f"n_passes={n_passes}, oversampling={oversampling}, sketch={sketch}: at "
            "least 2, 0 and 1 are allowed"
        )
    first = next(iter(stream()), None)
    if first is None:
        raise ParameterError("no rows: more than d are wanted")
    p = first.shape[1]
    if not 1 <= d <= p:
        raise ParameterError(f"d={d}: 1 … {p} are allowed, the number of coefficients")
    b = min(d + oversampling, p)
    shift = _shared(first.float().mean(0), from_first=True)
    omega = _Sketch(p, min(sketch * b, p), seed, first.device)

    n, total, squares, gram = _sketched(stream, shift, omega)
    if n <= d:
        raise ParameterError(f"n={n} images: more than d={d} are wanted")
    offset = total / n  # the mean of rows that are shifted
    centre = omega(offset[None])
    gram -= n * centre.T @ centre
    values, vectors = eigenpairs(gram, min(b, n - 1))
    rank = int((values > 1e-6 * values[0].clamp(min=0)).sum())  # float32 has no more
    if rank < d:
        raise ParameterError(
            f"d={d}: the data have {rank} dimensions only; choose d ≤ {rank}"
        )
    left = (vectors / values.sqrt())[:, :rank].float()  # of a sketch, to its row of U
    block = _product(stream, shift, lambda y: (omega(y) - centre.float()) @ left)
    if n_passes == 2:
        eigenvalues, components = _singular(block, d)
        eigenvalues = eigenvalues / (n - 1)
    else:
        basis = image = block[:, :0].float()
        for _ in range(n_passes - 2):
            if basis.shape[1] == p:  # there are no more directions
                break
            column = _orthonormal(block.float(), basis)
            block = _product(stream, shift, _times(column))
            # Of centred rows: those of shifted rows, less n offset offsetᵀ.
            block -= n * torch.outer(offset, offset @ column.double())
            block /= n - 1
            basis = torch.cat([basis, column], 1)
            image = torch.cat([image, block.float()], 1)
        eigenvalues, components = _nystrom(basis, image, d)
    peak = components.gather(1, components.abs().argmax(1, keepdim=True))
    return Whitening(
        shift.double() + offset,
        components * peak.sign(),
        eigenvalues,
        (squares - n * offset.square().sum()) / (n - 1),
    )


class _Sketch:
    """The map Ω: m sums over random groups of p numbers with random signs."""

    def __init__(self, p: int, m: int, seed: int, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.p, self.m = p, m
        self.groups = -(-p // m)
        self.order = torch.randperm(p, generator=draw).to(device)
        self.signs = (2.0 * torch.randint(2, (p,), generator=draw) - 1).to(device)

    def __call__(self, y: Float[Tensor, "n p"]) -> Float[Tensor, "n m"]:
        if self.m == self.p:
            return y
        signed = y[:, self.order] * self.signs.to(y)
        padded = torch.nn.functional.pad(signed, (0, self.groups * self.m - self.p))
        return padded.view(len(y), self.groups, self.m).sum(1)


def _sketched(
    stream: Stream, shift: Tensor, omega: _Sketch
) -> tuple[int, Tensor, Tensor, Tensor]:
    """Return n, Σ y, Σ ‖y‖² and Σ (yΩ)ᵀ yΩ of rows y = x − shift, in float64."""
    sums = torch.zeros(omega.p + 2, dtype=torch.float64, device=shift.device)
    gram = torch.zeros(omega.m, omega.m, dtype=torch.float64, device=shift.device)
    for y in _shifted(stream, shift):
        sums[0] += len(y)
        sums[1] += y.square().sum()
        sums[2:] += y.sum(0)
        if not sums[1].isfinite():
            row = int(sums[0]) - len(y) + int((~y.isfinite()).any(1).nonzero()[0])
            raise ParameterError(f"row {row} has values that are not finite")
        s = omega(y)
        gram += s.T @ s
    sums, gram = _shared(sums), _shared(gram)
    return int(sums[0]), sums[2:], sums[1], gram


def _product(
    stream: Stream, shift: Tensor, of_rows: Callable[[Tensor], Tensor]
) -> Float[Tensor, "p b"]:
    """Return Σ yᵀ u of rows y = x − shift and what is made of them, u; in float64."""
    total = torch.zeros((), dtype=torch.float64, device=shift.device)
    for y in _shifted(stream, shift):
        total = total + (y.T @ of_rows(y)).double()
    return _shared(total)


def _times(block: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda y: y @ block


def _shifted(stream: Stream, shift: Tensor) -> Iterator[Tensor]:
    return (x.float() - shift for x in stream())


def _singular(block: Float[Tensor, "p b"], d: int) -> tuple[Tensor, Tensor]:
    """Return the d largest singular values, squared, and left vectors as rows."""
    squares, right = eigenpairs(block.T @ block, d)
    return squares, (block @ (right / squares.sqrt())).T


def _orthonormal(block: Tensor, basis: Tensor) -> Tensor:
    """Return an orthonormal basis of a block's part that is orthogonal to a basis."""
    block = block[:, : len(block) - basis.shape[1]]
    for _ in range(2):  # once leaves what rounding made of the first subtraction
        block = block - basis @ (basis.T @ block)
        block, _ = torch.linalg.qr(block)
    return block


def _nystrom(basis: Tensor, image: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Return the d largest eigenvalues, falling, and eigenvectors, as rows.

    Of A (BᵀA)⁻¹ Aᵀ, where A = CB: a little of B is added to A, and taken from the
    eigenvalues, since BᵀA may be all but singular (Tropp et al. 2017, algorithm 3).
    """
    little = torch.finfo(image.dtype).eps * torch.linalg.matrix_norm(image, "fro")
    image = image + little * basis
    core = (basis.T @ image).double()
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    floor = values[-1] * torch.finfo(image.dtype).eps
    root = vectors / values.clamp(min=floor).sqrt()
    squares, components = _singular((image @ root.to(image.dtype)).double(), d)
    return squares - little.double(), components


def _shared(tensor: Tensor, *, from_first: bool = False) -> Tensor:
    """Return the sum over all processes, or what the first one has."""
    if dist.is_available() and dist.is_initialized():
        if from_first:
            dist.broadcast(tensor, 0)
        else:
            dist.all_reduce(tensor)
    return tensor
