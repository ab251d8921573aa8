import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from latent_scattering import embedding
from latent_scattering.errors import ParameterError
from latent_scattering.scattering import Scattering2D
from latent_scattering.store import Store


def images(n, channels=1, seed=0):
    """Smooth random images, 16×16."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, 4, 4, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=16, mode="bicubic")
    return (255 * fine.clamp(0, 1)).to(torch.uint8)


@pytest.fixture
def kept(tmp_path):
    return Store(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_is_scikit_learns_whitening_of_the_scattering(kept, channels, monkeypatch):
    """With chunks of a few images, in float64, on images it has not seen."""
    monkeypatch.setattr(embedding, "CHUNK", 20_000)
    train, test, d = images(200, channels), images(20, channels, seed=1), 10
    phi = embedding.fit(train, "train", J=1, L=4, d=d, store=kept)
    scattering = Scattering2D(1, (16, 16), L=4)

    def coefficients(pixels):
        return scattering(pixels.double() / 255).flatten(1).numpy()

    pca = PCA(d, whiten=True, svd_solver="full").fit(coefficients(train))
    expected = pca.transform(coefficients(test))
    z = phi(test)
    assert z.shape == (20, d)
    signs = np.sign((z.numpy() * expected).sum(0))
    np.testing.assert_allclose(z, signs * expected, atol=2e-3)


def test_whitens_the_training_images(kept):
    train = images(300)
    phi = embedding.fit(train, "train", J=2, d=20, store=kept)
    z = embedding.embed(phi, train, "train", store=kept).double()
    torch.testing.assert_close(z.T.cov(), torch.eye(20).double(), atol=1e-3, rtol=0)


def test_whitening_has_an_inverse_on_its_subspace(kept):
    phi = embedding.fit(images(100), "train", J=2, d=20, store=kept)
    z = phi(images(10, seed=1))
    again = phi.whitening.transform(phi.whitening.inverse_transform(z))
    torch.testing.assert_close(again, z, atol=1e-3, rtol=1e-3)


def test_both_stages_are_kept(kept, monkeypatch):
    train = images(100)
    phi = embedding.fit(train, "train", J=2, d=20, store=kept)
    z = embedding.embed(phi, train, "train", store=kept)
    assert sorted(f.name for f in kept.root.iterdir()) == ["embedding", "whitening"]

    def refuse(*arguments):
        raise AssertionError("scattered again")

    monkeypatch.setattr(embedding, "_stream", refuse)
    again = embedding.fit(train, "train", J=2, d=20, store=kept)
    assert again.key == phi.key
    assert torch.equal(embedding.embed(again, train, "train", store=kept), z)
    with pytest.raises(AssertionError):
        embedding.embed(again, train, "others", store=kept)
    for changed in ({"J": 1}, {"d": 19}, {"L": 4}):
        with pytest.raises(AssertionError):
            embedding.fit(train, "train", **{"J": 2, "d": 20, **changed}, store=kept)


def test_key_is_that_of_what_the_codes_are_made_by(kept, tmp_path):
    train = images(100)
    phi = embedding.fit(train, "train", J=2, d=20, store=kept)
    elsewhere = Store(tmp_path / "elsewhere")
    assert embedding.fit(train, "named", J=2, d=20, store=elsewhere).key == phi.key
    others = {
        embedding.fit(pixels, "other", J=J, d=d, store=elsewhere).key
        for pixels, J, d in [(train, 1, 20), (train, 2, 19), (images(99), 2, 20)]
    }
    assert len(others | {phi.key}) == 4


def test_many_images_of_many_coefficients_are_whitened_in_passes(kept, monkeypatch):
    """With the same result, where the sketch is as long as the rows."""
    train = images(200)
    exact = embedding.fit(train, "train", J=2, d=10, store=kept)
    monkeypatch.setattr(embedding.whitening, "LARGEST", 150 * 1296)
    monkeypatch.setattr(embedding, "CHUNK", 20_000)
    found = embedding.fit(train, "again", J=2, d=10, store=kept)
    torch.testing.assert_close(
        found.whitening.eigenvalues, exact.whitening.eigenvalues, rtol=1e-3, atol=0
    )
    cosines = (found.whitening.components * exact.whitening.components).sum(1)
    torch.testing.assert_close(cosines, torch.ones(10), rtol=0, atol=1e-3)
    assert not list(kept.root.glob("whitening/*.work"))


def test_refuses_before_it_scatters(kept, monkeypatch):
    monkeypatch.setattr(embedding, "_stream", None)
    with pytest.raises(
        ParameterError, match=r"d=20: 20 images of 1296 coefficients .* 1 … 19"
    ):
        embedding.fit(images(20), "train", J=2, d=20, store=kept)
    with pytest.raises(ParameterError, match=r"d=2000: .* allow 1 … 1296"):
        embedding.fit(images(2100), "train", J=2, d=2000, store=kept)
