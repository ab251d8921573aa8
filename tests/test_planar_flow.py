"""Planar flows: against autograd, bisection, quadrature, and where numbers overflow."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacrev

from latent_scattering.errors import ParameterError
from latent_scattering.planar_flow import (
    PlanarFlow,
    flow,
    flow_each,
    initial,
    inverse,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def plain(z, planes, constrained=True):
    """z_K of one point, as the papers write it."""
    d = len(z)
    for u, w, b in (plane.split([d, d, 1]) for plane in planes):
        if constrained:
            a = w @ u
            u = u + (torch.log(1 + a.exp()) - 1 - a) * w / w.norm() ** 2
        z = z + u * torch.tanh(w @ z + b)
    return z


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize(("d", "K"), [(1, 1), (2, 3), (5, 12)])
def test_against_autograd(d, K, constrained):
    z, planes = 2 * normal(20, d), 1.5 * normal(K, 2 * d + 1, seed=1)
    slopes = (planes[:, :d] * planes[:, d : 2 * d]).sum(1)
    if K == 12:
        assert slopes.min() < -1 < slopes.max()
    found = flow(z, planes, constrained=constrained)
    for point, z_K, log_det in zip(z, *found, strict=True):
        torch.testing.assert_close(z_K, plain(point, planes, constrained))
        jacobian = jacrev(plain)(point, planes, constrained)
        expected = torch.linalg.slogdet(jacobian)
        torch.testing.assert_close(log_det, expected.logabsdet)
        assert expected.sign == 1 or not constrained


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("batch", [(), (2,), (2, 1)])
def test_gradients(batch, constrained):
    z, planes = normal(*batch, 3, 4), normal(*batch, 5, 9, seed=1)
    assert torch.autograd.gradcheck(
        lambda z, planes: tuple(flow(z, planes, constrained=constrained)),
        (z.requires_grad_(), planes.requires_grad_()),
    )


def test_planes_of_each_point_and_of_each_stack():
    z, planes = normal(2, 6, 3), normal(2, 6, 4, 7, seed=1)
    each = flow_each(z, planes)
    shared = flow(z, planes[:, 0])
    for i in range(2):
        of_one = flow(z[i], planes[i, 0])
        torch.testing.assert_close(shared.z[i], of_one.z)
        torch.testing.assert_close(shared.log_det[i], of_one.log_det)
        for j in range(6):
            of_one = flow(z[i, j : j + 1], planes[i, j])
            torch.testing.assert_close(each.z[i, j], of_one.z[0])
            torch.testing.assert_close(each.log_det[i, j], of_one.log_det[0])


vectors = st.lists(st.floats(-40, 40), min_size=2, max_size=2)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(u=vectors, w=vectors, b=st.floats(-40, 40), z=vectors)
def test_every_constrained_flow_is_invertible(u, w, b, z):
    u, w, b, z = (torch.tensor(x, dtype=torch.float64) for x in (u, w, [b], z))
    planes = torch.cat([u, w, b])[None]
    log_det = flow(z[None], planes).log_det
    assert log_det.isfinite()
    # û as the map has it: f(z) − z at the point where tanh is 1.
    at = z + w * 50 if w.norm() else z
    far = torch.cat([u, w, torch.tensor([40.0])])[None].double()
    u_hat = flow(0 * at[None], far).z[0]
    psi = (1 - torch.tanh(w @ z + b) ** 2) * w
    rounding = 1e-13 * (1 + u.norm() * w.norm())
    assert 1 + u_hat @ psi > -rounding
    torch.testing.assert_close(
        log_det.exp(), 1 + u_hat @ psi[None].T, atol=rounding.item(), rtol=1e-9
    )


@pytest.mark.parametrize("K", [1, 12])
def test_round_trip(K):
    z, planes = 3 * normal(100, 4), normal(K, 9, seed=2)
    back = inverse(flow(z, planes).z, planes)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-9)
    forth = flow(inverse(z, planes), planes).z
    torch.testing.assert_close(forth, z, rtol=0, atol=1e-9)
    stacked = planes.repeat(2, 1, 1)
    torch.testing.assert_close(
        inverse(z.view(2, 50, 4), stacked), inverse(z, planes).view(2, 50, 4)
    )


def stack(d, K, **options):
    """A flow that is not the identity."""
    module = PlanarFlow(d, K, seed=0, **options).double()
    module.planes.data += normal(*module.planes.shape, seed=1)
    return module


def test_density_integrates_to_one_and_is_that_of_the_draws():
    module = stack(2, 4)
    axis = torch.arange(-12, 12, 0.05).double()
    grid = torch.cartesian_prod(axis, axis)
    density = module.log_prob(grid).exp()
    assert density.sum().item() * 0.05**2 == pytest.approx(1, abs=2e-3)
    draws = module(normal(20_000, 2, seed=3)).z
    # Five standard errors of the mean, and of the mean square.
    for f in (lambda z: z, torch.square):
        expected = (density[:, None] * f(grid)).sum(0) * 0.05**2
        error = (f(draws).mean(0) - expected).abs()
        assert (error < 5 * f(draws).std(0) / 20_000**0.5 + 0.01).all()


def test_log_prob_of_what_is_drawn():
    module, start = stack(3, 5), normal(50, 3)
    z, log_det = module(start)
    base = torch.distributions.Normal(0, 1).log_prob(start).sum(1)
    torch.testing.assert_close(module.log_prob(z), base - log_det)


@pytest.mark.parametrize("constrained", [True, False])
def test_no_flow_is_the_identity(constrained):
    z = normal(9, 3).float()
    module = PlanarFlow(3, 0, constrained=constrained, seed=0)
    z_K, log_det = module(z)
    assert torch.equal(z_K, z)
    assert torch.equal(log_det, torch.zeros(9))
    assert torch.equal(module.inverse(z), z)


@pytest.mark.parametrize("constrained", [True, False])
def test_starts_near_the_identity_with_the_same_flows_for_any_number(constrained):
    z = normal(9, 3).float()
    module = PlanarFlow(3, 8, constrained=constrained, seed=4)
    z_K, log_det = module(z)
    torch.testing.assert_close(z_K, z, rtol=0, atol=0.1)
    torch.testing.assert_close(log_det, torch.zeros(9), rtol=0, atol=0.1)
    # û ~ N(0, .01² I/d) is what is drawn: it is u itself if there is no constraint.
    free = initial(3, 8, constrained=False, seed=4)
    slopes = (free[:, :3] * free[:, 3:6]).sum(1)
    torch.testing.assert_close(module.slopes(), slopes, rtol=1e-3, atol=1e-6)
    assert free[:, :3].std().item() == pytest.approx(0.01 / 3**0.5, rel=0.5)
    assert torch.equal(module.planes[:, 3:], free[:, 3:])
    fewer = PlanarFlow(3, 5, constrained=constrained, seed=4)
    assert torch.equal(fewer.planes, module.planes[:5])
    assert not torch.equal(
        initial(3, 8, constrained=constrained, seed=5), module.planes
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("a", [-1e3, -90.0, 0.0, 90.0, 1e3])
def test_nothing_overflows(a, dtype):
    z = normal(64, 2).to(dtype)
    z[0] = 0
    planes = torch.tensor([[a, 0, 1, 0, 0], [0, a, 0, 1, 0]], dtype=dtype)
    planes.requires_grad_()
    z_K, log_det = flow(z, planes)
    (z_K.sum() + log_det.sum()).backward()
    for tensor in (z_K, log_det, planes.grad):
        assert tensor.isfinite().all()
    if a > 0:
        # At z = 0, |det| is (a − 1 + 1)², and far away every tanh is ±1.
        assert log_det[0].item() == pytest.approx(2 * math.log(a), rel=1e-4)


def test_log_det_is_exact_where_the_slope_is_nearly_flat():
    """log(1 + eᵃ) is eᵃ for a ≪ 0, of which 1 + wᵀû would leave nothing."""
    planes = torch.tensor([[-30.0, 0, 1, 0, 0]])
    found = flow(torch.zeros(1, 2), planes).log_det.item()
    assert found == pytest.approx(-30, rel=1e-5)


def test_a_plane_without_direction_shifts():
    planes = torch.tensor([[2.0, -1, 0, 0, 0.5]], requires_grad=True)
    z = normal(4, 2).float()
    z_K, log_det = flow(z, planes)
    shift = math.tanh(0.5) * torch.tensor([2.0, -1])
    torch.testing.assert_close(z_K, z + shift)
    assert torch.equal(log_det, torch.zeros(4))
    (z_K.sum() + log_det.sum()).backward()
    assert planes.grad.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initial(0, 3, seed=0), r"d=0, K=3: at least 1 and 0"),
        (lambda: initial(2, -1, seed=0), r"d=2, K=-1: at least 1 and 0"),
        (
            lambda: flow(torch.zeros(4, 2), torch.zeros(3, 4)),
            r"planes of shape \(3, 4\): \(K, 5\) is wanted for points of \(4, 2\)",
        ),
        (
            lambda: flow_each(torch.zeros(4, 2), torch.zeros(4, 3, 6)),
            r"planes of shape \(4, 3, 6\): \(4, K, 5\) is wanted for points of \(4, 1",
        ),
        (
            lambda: inverse(
                torch.zeros(4, 2), torch.tensor([[-3.0, 0, 1, 0, 0]]), constrained=False
            ),
            r"wᵀu = -3: a planar flow is invertible above -1",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ParameterError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_unconstrained_slopes_can_be_below_minus_one():
    module = PlanarFlow(2, 1, constrained=False, seed=0)
    module.planes.data = torch.tensor([[-3.0, 0, 1, 0, 0]])
    assert module.slopes().item() == -3
    assert module(torch.zeros(1, 2)).log_det.item() == pytest.approx(math.log(2))
