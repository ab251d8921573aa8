import math

import pytest
import torch

from latent_scattering import metrics
from latent_scattering.pixels import to_signed, to_unit


def test_psnr_of_known_errors():
    x = torch.zeros(3, 1, 2, 2)
    assert metrics.psnr(x, x + 2) == 0  # the error is the peak
    assert metrics.psnr(x, x + 0.2) == pytest.approx(20, abs=1e-5)
    assert metrics.psnr(x, x) == math.inf


def test_psnr_is_of_the_mean_error_and_at_most_the_mean_psnr():
    x = torch.zeros(2, 1, 4, 4)
    y = x.clone()
    y[0] += 0.1
    y[1] += 0.3
    expected = 10 * math.log10(4 / ((0.01 + 0.09) / 2))
    assert metrics.psnr(x, y) == pytest.approx(expected, abs=1e-5)
    each = metrics.psnr_per_image(x, y)
    expected_each = [10 * math.log10(4 / 0.01), 10 * math.log10(4 / 0.09)]
    assert each.tolist() == pytest.approx(expected_each, abs=1e-5)
    assert each.mean() > metrics.psnr(x, y)


def test_scales_of_pixels():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(to_unit(pixels), torch.tensor([0, 0.2, 1]))
    torch.testing.assert_close(to_signed(pixels), torch.tensor([-1, -0.6, 1]))
