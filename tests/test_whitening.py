import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from latent_scattering import whitening
from latent_scattering.errors import ParameterError


def data(n, p, *, seed=0, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64)
    mixed = (
        x
        * torch.logspace(0, -2, p)
        @ torch.randn(p, p, generator=generator, dtype=torch.float64)
    )
    return mixed + offset


@pytest.mark.parametrize(("n", "p"), [(200, 30), (31, 30), (30, 30), (25, 60)])
@pytest.mark.parametrize("sizes", [1000, 17])
def test_equals_scikit_learn(n, p, sizes):
    x, d = data(n, p, offset=3.0), 12
    ours = whitening.fit(x.split(sizes), d)
    theirs = PCA(d, whiten=True, svd_solver="full").fit(x.numpy())
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.eigenvalues, theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(
        ours.explained_variance_ratio, theirs.explained_variance_ratio_, rtol=1e-9
    )
    signs = np.sign((ours.components.numpy() * theirs.components_).sum(1))
    np.testing.assert_allclose(
        ours.components, signs[:, None] * theirs.components_, atol=1e-8
    )
    new = data(40, p, seed=1)
    z = ours.transform(new)
    np.testing.assert_allclose(z, signs * theirs.transform(new.numpy()), atol=1e-7)
    np.testing.assert_allclose(
        ours.inverse_transform(z),
        theirs.inverse_transform(theirs.transform(new.numpy())),
        atol=1e-7,
    )


@pytest.mark.parametrize(("n", "p"), [(200, 30), (25, 60)])
def test_whitens_what_it_was_fitted_to(n, p):
    x, d = data(n, p), 12
    z = whitening.fit(x.split(50), d).transform(x)
    torch.testing.assert_close(z.mean(0), torch.zeros_like(z[0]), atol=1e-9, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(d).double(), atol=1e-8, rtol=0)


def test_is_safe_far_from_the_origin():
    # One pass over squares, in float64, would lose 1e-6 of the variance here.
    x = data(300, 8)
    near, far = whitening.fit([x], 8), whitening.fit((x + 1e5).split(64), 8)
    torch.testing.assert_close(far.eigenvalues, near.eigenvalues, rtol=1e-8, atol=0)


def test_signs_are_fixed():
    components = whitening.fit([data(50, 9)], 9).components
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_copy_in_float32():
    x = data(100, 9)
    exact = whitening.fit([x], 5)
    copy = exact.to(torch.device("cpu"), torch.float32)
    assert copy.transform(x).dtype == torch.float32
    torch.testing.assert_close(
        copy.transform(x).double(), exact.transform(x), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("x", "d", "message"),
    [
        (data(10, 30), 10, "n=10 images: more than d=10"),
        (data(50, 8), 9, r"d=9: 1 … 8 are allowed"),
        (data(50, 8), 0, r"d=0: 1 … 8 are allowed"),
        (data(50, 4) @ torch.ones(4, 8).double(), 3, "1 dimensions only"),
        (data(10, 4) @ torch.eye(4, 30).double(), 6, "4 dimensions only"),
        (data(50, 8).index_fill(0, torch.tensor(21), torch.nan), 3, "row 21 "),
    ],
)
def test_refusals_name_the_numbers(x, d, message):
    with pytest.raises(ParameterError, match=message):
        whitening.fit(x.split(20), d)


def test_refuses_what_does_not_fit_in_memory(monkeypatch):
    monkeypatch.setattr(whitening, "LARGEST", 600)
    with pytest.raises(ParameterError, match=r"p=30 .* of 21 images .* allows 20"):
        whitening.fit(data(40, 30).split(7), 5)
    assert len(whitening.fit(data(20, 30).split(7), 5).eigenvalues) == 5


def test_no_images():
    with pytest.raises(ParameterError, match="n=0 images"):
        whitening.fit([], 3)
