"""Whitening at sizes where no covariance fits into memory: a few passes over the rows.

The first pass shortens every row x to a sketch xΩ of m numbers, where Ω adds up
coefficients that are far apart, with random signs (Clarkson & Woodruff 2013). The
leading left singular vectors U of all sketches are nearly those of all rows, so that
the second pass gives a block UᵀX that spans nearly the leading right ones (Halko et al.
2011, section 1.2, with U truncated). Each further pass multiplies the block by the
covariance C: the Krylov space of all blocks holds the leading eigenvectors to a
precision that grows with their number (Musco & Musco 2015), and they are taken from
Nyström's approximation of C by these products (Tropp et al. 2017).

For one precision, more passes of a narrower block cost less than few of a wide one: so
a block has about d / 2 columns, and there are seven passes, with which the components
of 3,000 images of MNIST are within 10⁻³ at d = 256 (a test), and those of all 60,000 at
d = 512 (the record of chapter whitening).
"""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from latent_scattering.errors import ParameterError
from latent_scattering.whitening import Whitening, eigenpairs

SKETCH = 4  # m of a block's column
RESOLVED = 1e-6  # of the largest variance: the least that float32 tells from none

# Gives the same rows at every call, in batches; called once for the first of these, and
# once a pass.
Stream = Callable[[], Iterable[Float[Tensor, "_ p"]]]


def fit(
    stream: Stream,
    d: int,
    *,
    n_passes: int = 7,
    block: int = 0,
    seed: int,
) -> Whitening:
    """Return the whitening of rows that are read `n_passes` times.

    Products are taken in float32 on the rows' device, where all of this happens. With
    b columns a block and m = 4 b, the first pass takes 2 m² operations a row, the
    second 2 b (m + p), and every further one 4 b p. Memory holds about 4 b p numbers
    for each of these further passes, besides a batch.

    Under `torch.distributed`, each process reads its own share of the rows, at least
    one, and all return the same; one that raises leaves the others waiting.

    Parameters
    ----------
    stream
        Gives the rows x, in batches, the same every time.
    d
        Components that are kept: less than n, at most p.
    n_passes
        At least 3. More of them are more precise.
    block
        b, columns that are multiplied in a pass, such that (n_passes − 2) b ≥ d; 0 for
        d / 2 + 16. More of them are more precise; fewer are used where n or p has no
        more.
    seed
        ≥ 0. Of Ω.

    Raises
    ------
    ParameterError
        If a value is out of range, n or p is too small for d, some row is not finite,
        or the data have fewer than d dimensions that float32 resolves.
    """
    first = next(iter(stream()), None)
    if first is None:
        raise ParameterError("no rows: more than d are wanted")
    p = first.shape[1]
    if not 1 <= d <= p:
        raise ParameterError(f"d={d}: 1 … {p} are allowed, the number of coefficients")
    b = min(block or d // 2 + 16, p)
    if n_passes < 3 or block < 0 or (n_passes - 2) * b < d:
        raise ParameterError(
            f"n_passes={n_passes}, block={block}: at least 3 passes, and d={d} columns "
            "in all passes but two, are wanted"
        )
    shift = _shared(first.float().mean(0), from_first=True)
    omega = _Sketch(p, min(max(SKETCH * b, d), p), seed, first.device)

    n, total, squares, gram = _sketched(stream, shift, omega)
    if n <= d:
        raise ParameterError(f"n={n} images: more than d={d} are wanted")
    offset = total / n  # the mean of rows that are shifted
    centre = omega(offset[None])
    gram -= n * centre.T @ centre
    values, vectors = eigenpairs(gram, min(max(b, d), n - 1))
    rank = int((values > RESOLVED * values[0].clamp(min=0)).sum())
    if rank < d:
        raise ParameterError(
            f"d={d}: in {rank} dimensions only do the data have more than {RESOLVED:g} "
            f"of their largest variance; choose d ≤ {rank}"
        )
    # Of a sketch, to its row of U.
    left = (vectors / values.sqrt())[:, : min(rank, b)].float()
    product = _product(stream, shift, lambda y: (omega(y) - centre.float()) @ left)
    basis = image = product[:, :0].float()
    for _ in range(n_passes - 2):
        if basis.shape[1] == p:  # there are no more directions
            break
        columns = _orthonormal(product.float(), basis)
        product = _product(stream, shift, _times(columns))
        # Of centred rows: those of shifted rows, less n offset offsetᵀ.
        product -= n * torch.outer(offset, offset @ columns.double())
        product /= n - 1
        basis = torch.cat([basis, columns], 1)
        image = torch.cat([image, product.float()], 1)
    eigenvalues, components = _nystrom(basis, image, d)
    peak = components.gather(1, components.abs().argmax(1, keepdim=True))
    return Whitening(
        shift.double() + offset,
        components * peak.sign(),
        eigenvalues,
        (squares - n * offset.square().sum()) / (n - 1),
    )


class _Sketch:
    """The map Ω: p numbers, with random signs, in groups of m that are added up.

    Each group is turned by a random number of places first, so that two numbers of
    different groups meet with probability 1 / m, and those of one group never.
    """

    def __init__(self, p: int, m: int, seed: int, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.p, self.m = p, m
        self.signs = (2.0 * torch.randint(2, (p,), generator=draw) - 1).to(device)
        self.turns = torch.randint(m, (-(-p // m),), generator=draw).tolist()

    def __call__(self, y: Float[Tensor, "n p"]) -> Float[Tensor, "n m"]:
        if self.m == self.p:
            return y
        signed = torch.nn.functional.pad(y * self.signs.to(y), (0, -self.p % self.m))
        result = y.new_zeros(len(y), self.m)
        for group, turn in zip(signed.split(self.m, 1), self.turns, strict=True):
            result[:, turn:] += group[:, : self.m - turn]
            result[:, :turn] += group[:, self.m - turn :]
        return result


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
    # Columns that are all but orthogonal: float32 is enough for their products, whose
    # error is relative to each pair's lengths.
    half = image @ root.to(image.dtype)
    squares, right = eigenpairs((half.T @ half).double(), d)
    components = (half @ (right / squares.sqrt()).to(half.dtype)).T.double()
    # Orthonormal to 1e-6 so far, which would show in the variance they explain.
    lower = torch.linalg.cholesky(components @ components.T)
    components = torch.linalg.solve_triangular(lower, components, upper=False)
    return squares - little.double(), components


def _shared(tensor: Tensor, *, from_first: bool = False) -> Tensor:
    """Return the sum over all processes, or what the first one has."""
    if dist.is_available() and dist.is_initialized():
        if from_first:
            dist.broadcast(tensor, 0)
        else:
            dist.all_reduce(tensor)
    return tensor
