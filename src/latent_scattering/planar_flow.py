"""Planar flows (Rezende & Mohamed 2015): f(z) = z + û tanh(wᵀz + b), K in a row.

A stack of them costs a few products of matrices, and not K passes over (n, d): since
z_k = z + Σ_{j≤k} û_j t_j with t_j = tanh(w_jᵀ z_{j−1} + b_j), the arguments of tanh
need only Wz + b and the K×K products w_kᵀû_j.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from latent_scattering.errors import ParameterError


class Flowed(NamedTuple):
    """What planar flows give."""

    z: Float[Tensor, "*batch n d"]
    """z_K."""
    log_det: Float[Tensor, "*batch n"]
    """log |det ∂z_K/∂z|, in nats."""


def flow(
    z: Float[Tensor, "*batch n d"],
    planes: Float[Tensor, "*batch K p"],
    *,
    constrained: bool = True,
) -> Flowed:
    """Return z_K = f_K ∘ … ∘ f_1(z) and the log-determinant (Xu et al., eqs. 1–5).

    Gradients are exact; there are no second ones.

    Parameters
    ----------
    z
        Points.
    planes
        A row (u, w, b) of p = 2d + 1 numbers for each of the K ≥ 0 flows, which the n
        points share. For points with planes of their own, as an encoder gives them, see
        `flow_each`.
    constrained
        Put û = u + (m(wᵀu) − wᵀu) w/‖w‖² in the place of u, m(a) = log(1 + eᵃ) − 1, so
        that wᵀû > −1 and every f is invertible (Rezende & Mohamed, appendix A.1).
        Without, f is as printed in eq. 1, and 1 + uᵀψ may be negative or 0.

    Raises
    ------
    ParameterError
        If the shapes do not fit.
    """
    _check(z, planes)
    return Flowed(*_Stack.apply(z, *_directions(planes, constrained)))


def flow_each(
    z: Float[Tensor, "*batch d"],
    planes: Float[Tensor, "*batch K p"],
    *,
    constrained: bool = True,
) -> Flowed:
    """Return what `flow` does, each point with planes of its own."""
    z, log_det = flow(z.unsqueeze(-2), planes, constrained=constrained)
    return Flowed(z.squeeze(-2), log_det.squeeze(-1))


@torch.no_grad()
def inverse(
    z: Float[Tensor, "*batch n d"],
    planes: Float[Tensor, "*batch K p"],
    *,
    constrained: bool = True,
) -> Float[Tensor, "*batch n d"]:
    """Return the points that `flow` takes to z; without gradients.

    Along w, f is x ↦ x + wᵀû tanh(x) with x = wᵀz + b, which rises: its root is found
    by bisection, to the precision of the numbers.

    Raises
    ------
    ParameterError
        If the shapes do not fit, or some wᵀu ≤ −1 and f is not invertible.
    """
    _check(z, planes)
    w, u, b, gap = _directions(planes, constrained)
    if not (gap > 0).all():
        raise ParameterError(
            f"wᵀu = {float(gap.min()) - 1:.3g}: a planar flow is invertible above -1"
        )
    for k in reversed(range(planes.shape[-2])):
        m = gap[..., k, None] - 1
        # (*batch, n): the root is within |m| of the value.
        value = (z @ w[..., k, :, None]).squeeze(-1) + b[..., k, None]
        low, high = value - m.abs(), value + m.abs()
        for _ in range(torch.finfo(z.dtype).bits):
            x = (low + high) / 2
            above = x + m * x.tanh() > value
            low, high = torch.where(above, low, x), torch.where(above, x, high)
        z = z - ((low + high) / 2).tanh().unsqueeze(-1) * u[..., k, None, :]
    return z


@torch.no_grad()
def slopes(
    planes: Float[Tensor, "*batch K p"], *, constrained: bool = True
) -> Float[Tensor, "*batch K"]:
    """Return wᵀû of each flow, which is invertible above −1; without gradients."""
    return _directions(planes, constrained)[3] - 1


def initial(
    d: int, K: int, *, constrained: bool = True, seed: int
) -> Float[Tensor, "K p"]:
    """Return planes of flows that are nearly the identity, to start a training from.

    Each w is drawn from N(0, I/d) and b from N(0, 1), so that for z ~ N(0, I) tanh sees
    numbers of order 1, and û from N(0, .01² I/d). (At û = 0 there is no gradient in w
    and b but rounding, of which Adam would make steps of full size.)

    Raises
    ------
    ParameterError
        If d < 1 or K < 0.
    """
    if d < 1 or K < 0:
        raise ParameterError(f"d={d}, K={K}: at least 1 and 0 are allowed")
    generator = torch.Generator().manual_seed(seed)
    # A draw a flow, so that the first of them are the same for any K.
    rows = [torch.randn(1, 2 * d + 1, generator=generator) for _ in range(K)]
    u, w, b = torch.cat([torch.empty(0, 2 * d + 1), *rows]).split([d, d, 1], 1)
    u, w = 0.01 * u / d**0.5, w / d**0.5
    if constrained:
        # The u of which this is û: wᵀu is the inverse of m at wᵀû.
        slope = (w * u).sum(1, keepdim=True)
        a = (1 + slope).expm1().log()
        u = u + (a - slope) * w / w.square().sum(1, keepdim=True)
    return torch.cat([u, w, b], 1)


class PlanarFlow(nn.Module):
    """K planar flows of points in d dimensions, at first nearly the identity.

    Parameters
    ----------
    d, K
        At least 1 and 0.
    constrained
        See `flow`.
    seed
        Of the initial planes; see `initial`.
    """

    def __init__(self, d: int, K: int, *, constrained: bool = True, seed: int) -> None:
        super().__init__()
        self.constrained = constrained
        self.planes = nn.Parameter(initial(d, K, constrained=constrained, seed=seed))

    def forward(self, z: Float[Tensor, "n d"]) -> Flowed:
        """Return z_K and log |det ∂z_K/∂z|."""
        return flow(z, self.planes, constrained=self.constrained)

    def inverse(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the points that are taken to z; see the function `inverse`."""
        return inverse(z, self.planes, constrained=self.constrained)

    @torch.no_grad()
    def log_prob(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return log-densities, in nats, of z_K where z ~ N(0, I); see `inverse`."""
        start = self.inverse(z)
        log_base = -start.square().sum(1) / 2 - z.shape[1] / 2 * math.log(2 * math.pi)
        return log_base - self(start).log_det

    def slopes(self) -> Float[Tensor, " K"]:
        """Return each flow's wᵀû: it is invertible above −1."""
        return slopes(self.planes, constrained=self.constrained)


def _check(z: Tensor, planes: Tensor) -> None:
    d = z.shape[-1]
    if planes.shape[:-2] != z.shape[:-2] or planes.shape[-1] != 2 * d + 1:
        stacks = "".join(f"{size}, " for size in z.shape[:-2])
        raise ParameterError(
            f"planes of shape {tuple(planes.shape)}: "
            f"({stacks}K, {2 * d + 1}) is wanted for points of {tuple(z.shape)}"
        )


def _directions(
    planes: Tensor, constrained: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return w, û, b, and 1 + wᵀû."""
    d = planes.shape[-1] // 2
    u, w, b = planes.split([d, d, 1], -1)
    a = (w * u).sum(-1)
    b = b.squeeze(-1)
    if not constrained:
        return w, u, b, 1 + a
    # softplus does not overflow; where it underflows, log |det| stays finite.
    gap = softplus(a).clamp_min(torch.finfo(a.dtype).eps ** 2)
    square = w.square().sum(-1)
    # w = 0 has no direction: f is then a shift by u tanh(b).
    some = square > torch.finfo(a.dtype).tiny
    scale = torch.where(some, gap - 1 - a, 0) / torch.where(some, square, 1)
    return w, u + scale.unsqueeze(-1) * w, b, torch.where(some, gap, 1)


class _Stack(torch.autograd.Function):
    """(z, W, Û, b, 1 + wᵀû) ↦ z_K, log |det|; t_k is a row, of all points at once."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, w: Tensor, u: Tensor, b: Tensor, gap: Tensor
    ) -> tuple[Tensor, Tensor]:
        products = w @ u.mT
        t = w @ z.mT + b.unsqueeze(-1)  # (*batch, K, n)
        for k in range(t.shape[-2]):
            t_k = t[..., k : k + 1, :].tanh_()
            t[..., k + 1 :, :].addcmul_(products[..., k + 1 :, k : k + 1], t_k)
        ctx.save_for_backward(z, w, u, gap, products, t)
        return z + t.mT @ u, _det(gap.unsqueeze(-1), t).abs().log().sum(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_z: Tensor, by_log_det: Tensor) -> tuple[Tensor, ...]:
        z, w, u, gap, products, t = ctx.saved_tensors
        gap = gap.unsqueeze(-1)
        slope = 1 - t.square()  # of tanh
        by_det = by_log_det.unsqueeze(-2) / _det(gap, t)
        by_t = u @ by_z.mT + 2 * t * (1 - gap) * by_det
        # From the last flow to the first, by_t turns into the gradient before tanh.
        for k in reversed(range(t.shape[-2])):
            by_k = by_t[..., k : k + 1, :].mul_(slope[..., k : k + 1, :])
            by_t[..., :k, :].addcmul_(products[..., k : k + 1, :k].mT, by_k)
        by_products = (by_t @ t.mT).tril(-1)
        return (
            by_z + by_t.mT @ w,
            by_t @ z + by_products @ u,
            t @ by_z + by_products.mT @ w,
            by_t.sum(-1),
            (by_det * slope).sum(-1),
        )


def _det(gap: Tensor, t: Tensor) -> Tensor:
    """Return 1 + ûᵀψ = 1 + wᵀû (1 − t²), of which nothing cancels near 0."""
    return torch.lerp(gap.expand_as(t), torch.ones_like(t), t.square())
