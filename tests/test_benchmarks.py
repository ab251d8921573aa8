"""What the benchmarks count and compare is as on paper."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks import precision, work
from latent_scattering.whitening import Whitening


def test_precision_sees_a_turn_and_a_stretch():
    scale = torch.arange(6, 0, -1)
    x = torch.randn(400, 6, dtype=torch.float64) * scale
    values, vectors = torch.linalg.eigh(x.T.cov())
    values, rows = values.flip(0), vectors.T.flip(0)
    exact = Whitening(x.mean(0), rows[:2], values[:2], values.sum())
    angle = 0.01
    turned = math.cos(angle) * rows[0] + math.sin(angle) * rows[5]
    near = replace(
        exact,
        components=torch.stack([turned, rows[1]]),
        eigenvalues=1.02 * exact.eigenvalues,
    )
    found = precision.errors(near, exact, x)
    assert found["sine"] == pytest.approx(math.sin(angle))
    assert found["eigenvalue"] == pytest.approx(0.02)
    lost = math.sin(angle) ** 2 * (values[0] - values[5]) / values[:2].sum()
    assert found["variance"] == pytest.approx(lost.item())


def test_precision_rounds_what_is_left_of_the_first_mean():
    x = 1_000 + torch.rand(3_000, 4)
    half = (torch.cat(list(precision.kept(x, torch.float16)())) - x).abs().max()
    assert 0 < half < 1e-3  # 1,000 itself is rounded by up to 0.25
    assert torch.equal(torch.cat(list(precision.kept(x, torch.float64)())), x)


def test_of_a_matrix_product():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert work.count(lambda: a @ b) == (2 * 3 * 5 * 7, 4 * (3 * 5 + 5 * 7 + 3 * 7))


def test_of_its_gradients():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    taken = work.count(lambda: (a @ b).sum().backward())
    assert taken.operations == 3 * 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("transform", "N"),
    [
        (lambda x: torch.fft.fft2(x + 0j), 5 * 4 * 64 * math.log2(64)),
        (torch.fft.rfft2, 5 * 4 * 64 * math.log2(64) / 2),
    ],
)
def test_of_fourier_transforms(transform, N):
    x = torch.randn(4, 8, 8)
    assert work.count(lambda: transform(x)).operations == N


def test_views_move_nothing_and_what_is_expanded_is_read_once():
    x = torch.randn(6, 1)
    assert work.count(lambda: x.view(2, 3).T[1:]).moved == 0
    y = x.expand(6, 100)
    assert work.count(lambda: y + 1).moved == 4 * (6 + 600)
    assert work.count(lambda: x.mul_(2)).moved == 4 * 2 * 6
