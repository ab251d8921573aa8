import copy
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from kymatio.scattering2d.filter_bank import filter_bank as kymatio_filter_bank
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

from latent_scattering import scattering
from latent_scattering.errors import ParameterError
from latent_scattering.scattering import (
    Scattering2D,
    alpha,
    filter_bank,
    littlewood_paley,
)
from latent_scattering.wavelets import padded_shape


def images(*shape, seed=0, dtype=torch.float32):
    return torch.rand(
        *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype
    )


def relative_error(x, reference):
    return float((x - reference).norm() / reference.norm())


@functools.cache
def transform(J, shape, L=8):
    return Scattering2D(J, shape, L)


@functools.cache
def kymatio(J, shape, L=8):
    """Kymatio's transform; its coefficients of `images(2, *shape)`."""
    S = ScatteringTorch2D(J, shape, L)
    return S, S(images(2, *shape))


CASES = [
    (1, (6, 9), 8),
    (2, (28, 28), 8),
    (2, (32, 32), 8),
    (3, (64, 64), 8),
    (4, (128, 128), 8),
    (3, (40, 72), 8),  # not square
    (2, (30, 41), 8),  # not multiples of 2^J
    (3, (8, 17), 6),  # padded by the whole of a side
    (3, (20, 20), 1),
    (2, (12, 12), 5),
]


@pytest.mark.parametrize("J, shape, L", CASES)
@pytest.mark.parametrize("with_gradient", [False, True])
def test_equals_kymatio(J, shape, L, with_gradient):
    """The two paths, with and without gradient, differ in their modulus."""
    S = transform(J, shape, L)
    x = images(2, *shape)
    _, reference = kymatio(J, shape, L)
    y = S(x.requires_grad_(with_gradient)).detach()
    assert y.shape == reference.shape == (2, *S.output_shape)
    assert relative_error(y, reference) < 1e-6
    for order in range(S.paths[-1].order + 1):
        channels = [i for i, path in enumerate(S.paths) if path.order == order]
        assert relative_error(y[:, channels], reference[:, channels]) < 1e-6


def test_batch_axes():
    S = transform(2, (28, 28))
    x = images(2, 5, 3, 28, 28)  # colour
    y = S(x)
    assert y.shape == (2, 5, 3, 81, 7, 7)
    assert relative_error(y, kymatio(2, (28, 28))[0](x)) < 1e-6
    torch.testing.assert_close(S(x[1, 2, 0]), y[1, 2, 0], rtol=1e-5, atol=1e-6)
    permuted = x.transpose(-1, -2)  # not contiguous
    torch.testing.assert_close(S(permuted), S(permuted.contiguous()))
    for empty in (x[:0], x[:0].requires_grad_()):
        assert S(empty).shape == (0, 5, 3, 81, 7, 7)


def test_types():
    S = transform(2, (16, 16))
    x = images(16, 16)
    y = S(x.double())
    assert y.dtype == torch.float64
    torch.testing.assert_close(S(x), y.float(), rtol=1e-5, atol=1e-6)
    double = copy.deepcopy(S).to(torch.float64)
    assert double.psi0.dtype == torch.float64
    torch.testing.assert_close(double(x), S(x))
    assert S.state_dict() == {}


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_chunks_do_not_matter(monkeypatch, chunk, with_gradient):
    S = transform(2, (16, 16))
    x = images(7, 16, 16).requires_grad_(with_gradient)
    whole = S(x)
    largest = 9 * 8 * 12 * 12  # complex numbers an image, at 12 = (16 + 8) / 2
    monkeypatch.setitem(scattering.CHUNK, "cpu", chunk * largest)
    assert S._chunk_size("cpu") == chunk
    torch.testing.assert_close(S(x), whole, rtol=1e-5, atol=1e-7)


def test_gradient():
    S = Scattering2D(2, (6, 8), L=3).double()
    x = images(1, 6, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(S, (x,))


def test_gradient_through_chunks_equals_kymatio(monkeypatch):
    S = transform(2, (16, 16))
    weights = images(3, *S.output_shape, seed=1)
    x = images(3, 16, 16).requires_grad_()
    monkeypatch.setitem(scattering.CHUNK, "cpu", 1)
    (ours,) = torch.autograd.grad((weights * S(x)).sum(), x)
    reference, _ = kymatio(2, (16, 16))
    (theirs,) = torch.autograd.grad((weights * reference(x)).sum(), x)
    assert relative_error(ours, theirs) < 1e-5


def test_gradient_is_finite_where_a_modulus_is_0():
    S = transform(2, (16, 16))
    x = torch.zeros(16, 16, requires_grad=True)
    y = S(x)
    (gradient,) = torch.autograd.grad(y[1:].sum(), x)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_paths():
    S = transform(3, (8, 17), 6)
    assert len(S.paths) == S.n_channels == 1 + 6 * 3 + 36 * 3
    assert S.output_shape == (S.n_channels, 1, 2)
    theirs = ScatteringTorch2D(3, (8, 17), 6, out_type="list")(images(8, 17))
    assert [(len(c["j"]), c["j"], c["theta"]) for c in theirs] == list(S.paths)


def test_contraction_with_the_factor():
    """2^J ‖S(x) − S(y)‖ ≤ ‖x − y‖, up to the sum's maximum and the padding."""
    J, side = 3, 64
    S = transform(J, (side, side))
    x = torch.randn(8, side, side, generator=torch.Generator().manual_seed(0))
    y = S(x)
    bound = math.sqrt(float(littlewood_paley(J, (side, side)).max()))
    for a, b in itertools.combinations(range(8), 2):
        distance = 2**J * (y[a] - y[b]).norm()
        assert distance <= bound * (x[a] - x[b]).norm()
    # without the factor this would hold by far; with it the energy is kept, roughly
    low = torch.nn.functional.avg_pool2d(x, 8).repeat_interleave(8, 1)
    low = low.repeat_interleave(8, 2)
    assert (2**J * S(low)).norm() > 0.5 * low.norm()


def test_translation_covariance():
    """A shift by 2^J pixels shifts the output by one, far from the edges."""
    J, side = 2, 64
    x = torch.zeros(side, side)
    x[24:40, 24:40] = images(16, 16)
    S = transform(J, (side, side))
    shifted = S(x.roll((2**J, -(2**J)), (0, 1)))
    expected = S(x).roll((1, -1), (1, 2))
    assert relative_error(shifted, expected) < 1e-5


@pytest.mark.parametrize("J, shape, L", CASES)
def test_filters_equal_kymatios(J, shape, L):
    bank = filter_bank(J, shape, L)
    padded = padded_shape(J, shape)
    reference = kymatio_filter_bank(*padded, J, L)
    psi = np.stack([psi["levels"][0] for psi in reference["psi"]])
    assert bank.phi_hat.shape == padded
    assert bank.psi_hat.shape == (J, L, *padded)
    np.testing.assert_allclose(bank.psi_hat.flatten(0, 1), psi, atol=1e-6)
    np.testing.assert_allclose(bank.phi_hat, reference["phi"]["levels"][0], atol=1e-6)


def test_filters_in_space():
    bank = filter_bank(2, (28, 28))
    assert bank.phi.shape == (36, 36)
    assert float(bank.phi.sum()) == pytest.approx(1, abs=1e-4)
    assert float(bank.psi.sum((-2, -1)).abs().max()) < 1e-12
    torch.testing.assert_close(torch.fft.fft2(bank.psi).real, bank.psi_hat)


def test_littlewood_paley():
    total = littlewood_paley(4, (128, 128))
    assert total.shape == (160, 160)
    assert float(total.max()) == pytest.approx(1.049, abs=5e-4)
    assert float(total.min()) == pytest.approx(0.123, abs=5e-4)
    mirrored = total.flip(0, 1).roll((1, 1), (0, 1))
    torch.testing.assert_close(total, mirrored)


def test_alpha():
    """Angles & Mallat's figures for Q = 8 angles."""
    values = [round(alpha(J), 2) for J in range(1, 7)]
    assert values == [2.25, 5.06, 3.39, 1.63, 0.67, 0.25]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, (28, 28)), "J = 0 is not allowed"),
        ((2, (28, 28), 0), "L = 0 is not allowed"),
        ((5, (64, 28)), "J = 5 is too large for images of 64x28 .* 2\\^J <= 28"),
    ],
)
@pytest.mark.parametrize("function", [Scattering2D, filter_bank, littlewood_paley])
def test_wrong_parameters(function, arguments, message):
    with pytest.raises(ParameterError, match=message):
        function(*arguments)


def test_wrong_parameters_of_alpha():
    with pytest.raises(ParameterError, match="J = 0"):
        alpha(0)
    with pytest.raises(ParameterError, match="L = -1"):
        alpha(2, -1)


def test_wrong_images():
    S = transform(2, (16, 16))
    with pytest.raises(ParameterError, match=r"\(3, 16, 15\) .* \(\.\.\., 16, 16\)"):
        S(torch.zeros(3, 16, 15))
    with pytest.raises(ParameterError, match="float16 were given: allowed are"):
        S(torch.zeros(16, 16, dtype=torch.float16))
