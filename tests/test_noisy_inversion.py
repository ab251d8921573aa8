import pandas as pd
import pytest
import torch

from latent_scattering import noisy_inversion
from latent_scattering.errors import ParameterError
from latent_scattering.generator import Generator
from latent_scattering.inversion import Inversion
from latent_scattering.pixels import to_signed
from latent_scattering.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images():
    """Codes of which the first component alone makes the images."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 4, generator=generator)
    ramp = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    x = torch.sigmoid(3 * z[:, :1, None, None] * ramp)
    return (255 * x).to(torch.uint8), z


def inverse(key="inverse"):
    generator = Generator(4, (1, 8, 8), widths=(8, 4), kernel_size=3, seed=0)
    return Inversion(generator.eval(), pd.DataFrame(), 0.0, 0.0, 0.0, 1, key)


def fit(root, images, deviation, **changed):
    arguments = {"n_epochs": 8, "batch_size": 20, "learning_rate": 1e-2, "seed": 0}
    return noisy_inversion.fit(
        inverse(),
        images,
        deviation=torch.tensor(deviation),
        store=Store(root),
        **{**arguments, **changed},
    )


def test_noise_makes_it_ignore_what_it_drowns(tmp_path, images):
    pixels, z = images
    other = z.clone()
    other[:, 1:] = torch.randn(200, 3, generator=torch.Generator().manual_seed(5))
    errors = {}
    for noise in (0.0, 30.0):
        G = fit(tmp_path, images, [0.0, noise, noise, noise])
        assert not G.training
        with torch.no_grad():
            errors[noise] = (G(other) - to_signed(pixels)).abs().mean()
            errors[noise, "far"] = (G(30 * other) - G(other)).abs().mean()
    assert errors[30.0] < 0.2
    assert errors[30.0, "far"] < errors[0.0, "far"]


def test_is_kept_by_what_it_depends_on(tmp_path, images, monkeypatch):
    first = fit(tmp_path, images, [0.1] * 4, n_epochs=1)
    assert inverse().generator.linear.weight.equal(
        Generator(4, (1, 8, 8), widths=(8, 4), kernel_size=3, seed=0).linear.weight
    )
    monkeypatch.setattr(noisy_inversion.training, "fit", None)  # not called again
    again = fit(tmp_path, images, [0.1] * 4, n_epochs=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    with pytest.raises(TypeError):
        fit(tmp_path, images, [0.2] * 4, n_epochs=1)


@pytest.mark.parametrize("faulty", [-0.1, float("nan"), float("inf")])
def test_refuses_deviations(faulty, tmp_path, images):
    with pytest.raises(ParameterError, match="deviation: some are negative or not"):
        fit(tmp_path, images, [0.1, faulty, 0.1, 0.1])
