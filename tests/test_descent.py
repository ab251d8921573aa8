import pytest
import torch

from latent_scattering import descent
from latent_scattering.errors import ParameterError
from latent_scattering.scattering import Scattering2D


def image(channels=1, size=16):
    """Smooth, on [0, 1]."""
    coarse = torch.rand(channels, 1, 5, 5, generator=torch.Generator().manual_seed(3))
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return fine[:, 0].clamp(0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_gives_the_image_back(channels):
    S, x = Scattering2D(2, (16, 16)), image(channels)
    found = descent.invert(S, S(x), n_iterations=200, seed=0)
    assert found.shape == x.shape
    assert float((found - x).norm() / x.norm()) < 0.02


def test_comes_nearer_with_every_iteration():
    S, x = Scattering2D(2, (16, 16)), image()
    errors = [
        float((S(descent.invert(S, S(x), n_iterations=n, seed=0)) - S(x)).norm())
        for n in (1, 10, 50)
    ]
    assert errors == sorted(errors, reverse=True)
    again = descent.invert(S, S(x), n_iterations=10, seed=0)
    assert torch.equal(again, descent.invert(S, S(x), n_iterations=10, seed=0))
    assert not torch.equal(again, descent.invert(S, S(x), n_iterations=10, seed=1))


def test_refuses_no_iterations():
    S, x = Scattering2D(1, (8, 8)), image(size=8)
    with pytest.raises(ParameterError, match="n_iterations=0"):
        descent.invert(S, S(x), n_iterations=0, seed=0)
