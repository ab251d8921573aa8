"""The work that the roofline is drawn from is counted as on paper."""

import math

import pytest
import torch

from benchmarks import work


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
