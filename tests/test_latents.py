"""Models of the distribution of z: what holds of all, and the simple ones.

All seeds are fixed. Statistical tests state how often a right implementation fails.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.mixture import GaussianMixture

from latent_scattering import latents, training
from latent_scattering.errors import ParameterError
from latent_scattering.latents import latent
from latent_scattering.latents.latent import Latent
from latent_scattering.store import Store

NET = {"n_epochs": 1, "batch_size": 32, "widths": (4,)}
SMALL = {
    "gaussian": {},
    "norm-matched": {},
    "permuted": {},
    "mixture": {"k": 2},
    "spline-flow": {**NET, "n_layers": 2},
    "flow-matching": {**NET, "n_steps": 2},
    "vae": {**NET, "latent_dim": 2},
    "planar-vae": {**NET, "latent_dim": 2, "K": 2},
    "gan": {**NET, "latent_dim": 2},
}
NETWORKS = [name for name, options in SMALL.items() if "widths" in options]
FITTED = ["mixture", *NETWORKS]


pytestmark = pytest.mark.usefixtures("one_thread")


def codes(n=60, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def fit(name, root, z=None, *, seed=0, **options):
    z = codes() if z is None else z
    options = {**SMALL[name], **options}
    return latents.fit(name, z, seed=seed, store=Store(root), inputs=["z"], **options)


@pytest.fixture
def no_fit(monkeypatch):
    """Nothing can be fitted, only what is kept be loaded."""

    def refuse(*arguments, **more):
        raise AssertionError("fitted again")

    monkeypatch.setattr(training, "fit", refuse)
    monkeypatch.setattr(GaussianMixture, "fit", refuse)


def test_all_are_tried():
    assert list(SMALL) == list(latents.MODELS)


@pytest.mark.parametrize("name", SMALL)
def test_draws_are_of_the_seed_alone(name, tmp_path):
    model = fit(name, tmp_path)
    draws = model.sample(50, seed=1)
    assert isinstance(model, Latent)
    assert draws.shape == (50, 3)
    assert draws.dtype == torch.float32
    assert not draws.requires_grad
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(model.sample(50, seed=1), draws)
    assert not torch.equal(model.sample(50, seed=2), draws)
    assert len(draws.unique(dim=0)) == 50
    again = fit(name, tmp_path / "elsewhere")
    assert torch.equal(again.sample(50, seed=1), draws)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", FITTED)
def test_what_is_fitted_is_kept(name, tmp_path, request):
    model = fit(name, tmp_path)
    request.getfixturevalue("no_fit")
    again = fit(name, tmp_path)
    assert torch.equal(again.sample(9, seed=1), model.sample(9, seed=1))
    assert again.history.equals(model.history)
    assert again.seconds == model.seconds > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    for changed in ({"seed": 1}, {"z": codes(61)}):
        with pytest.raises(AssertionError, match="fitted again"):
            fit(name, tmp_path, **changed)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mixture", {"k": 3}),
        ("mixture", {"covariance_type": "diag"}),
        ("mixture", {"shrinkage": 0.4}),
        ("mixture", {"max_iter": 11}),
        *((name, {"n_epochs": 3}) for name in NETWORKS),
        *((name, {"batch_size": 31}) for name in NETWORKS),
        *((name, {"learning_rate": 0.1}) for name in NETWORKS),
        *((name, {"widths": (5,)}) for name in NETWORKS),
        ("spline-flow", {"n_layers": 3}),
        ("spline-flow", {"n_bins": 3}),
        ("spline-flow", {"patience": 2}),
        ("vae", {"beta": 0.1}),
        ("vae", {"latent_dim": 3}),
        ("planar-vae", {"K": 3}),
        ("planar-vae", {"amortised": True}),
        ("planar-vae", {"beta": 0.1}),
        ("gan", {"latent_dim": 3}),
        ("gan", {"loss": "r1"}),
        ("gan", {"gamma": 2.0}),
    ],
)
def test_another_option_is_another_fit(name, changed, tmp_path, no_fit):
    keys = set()

    class Spy(Store):
        def get(self, stage, parameters, make, *, inputs=()):
            keys.add(repr(parameters))
            return super().get(stage, parameters, make, inputs=inputs)

    for options in ({}, changed):
        with pytest.raises(AssertionError, match="fitted again"):
            latents.fit(
                name,
                codes(),
                seed=0,
                store=Spy(tmp_path),
                inputs=["z"],
                **{**SMALL[name], **options},
            )
    assert len(keys) == 2


@pytest.mark.parametrize("name", FITTED)
def test_key_has_the_code_of_its_model_and_of_no_other(name, tmp_path):
    made = []

    class Spy(Store):
        def get(self, stage, parameters, make, *, inputs=()):
            made.append(make.__module__)
            return super().get(stage, parameters, make, inputs=inputs)

    latents.fit(name, codes(), seed=0, store=Spy(tmp_path), inputs=[], **SMALL[name])
    assert made == [f"latent_scattering.latents.{name.replace('-', '_')}"]


@pytest.mark.parametrize("name", SMALL)
def test_smallest_sizes(name, tmp_path):
    model = fit(name, tmp_path, codes(3, 1))
    assert model.sample(1, seed=0).shape == (1, 1)
    if hasattr(model, "log_prob"):
        assert model.log_prob(codes(1, 1)).shape == (1,)
    with pytest.raises(ParameterError, match=r"n=0: at least 1"):
        model.sample(0, seed=0)


@pytest.mark.parametrize("name", SMALL)
def test_chunks_bound_memory(name, tmp_path, monkeypatch):
    z = codes(20)
    model = fit(name, tmp_path)
    whole = model.log_prob(z) if hasattr(model, "log_prob") else None
    monkeypatch.setattr(latent, "CHUNK", 8)
    sizes = []
    normal, randint = latent.normal, torch.randint
    monkeypatch.setattr(
        latent, "normal", lambda n, *rest: sizes.append(n) or normal(n, *rest)
    )
    monkeypatch.setattr(
        torch,
        "randint",
        lambda high, size, **more: sizes.append(size[0]) or randint(high, size, **more),
    )
    draws = model.sample(20, seed=0)
    assert draws.shape == (20, 3)
    assert len(draws.unique(dim=0)) == 20
    assert sorted(set(sizes)) == [4, 8]
    if whole is not None:
        torch.testing.assert_close(model.log_prob(z), whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_watch(name, tmp_path):
    seen = []

    def watch(model):
        assert isinstance(model, Latent)
        seen.append(model.sample(40, seed=1))
        return {"spread": float(seen[-1].std())}

    watched = fit(name, tmp_path, n_epochs=2, watch=watch)
    assert list(tmp_path.iterdir()) == []
    assert watched.history.spread.tolist() == [float(z.std()) for z in seen]
    assert len(seen) == 2
    assert not torch.equal(*seen)
    plain = fit(name, tmp_path, n_epochs=2)
    assert torch.equal(plain.sample(40, seed=1), seen[-1])
    assert torch.equal(watched.sample(40, seed=1), seen[-1])
    assert list(plain.history.drop(columns=["seconds", "training_seconds"])) == [
        column
        for column in watched.history
        if column not in ("spread", "seconds", "training_seconds")
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gauss", {}, r"model 'gauss': not one of gaussian, norm-matched, .*, gan$"),
        ("gaussian", {"beta": 1.0}, r"gaussian has no option 'beta'; it has tau$"),
        ("permuted", {"tau": 1.0}, r"permuted has no option 'tau'; it has none$"),
        ("vae", {"epochs": 1}, r"vae has no option 'epochs'; it has widths, .*beta"),
        ("gaussian", {"tau": 0.0}, r"tau=0.0: must be positive"),
        ("gaussian", {"tau": float("nan")}, r"tau=nan: must be positive"),
        ("mixture", {"k": 0}, r"k=0: at least 1"),
        ("mixture", {"k": 60}, r"k=60: at most 59 for 60 codes"),
        ("mixture", {"max_iter": 0}, r"max_iter=0: at least 1"),
        ("mixture", {"shrinkage": -0.1}, r"shrinkage=-0.1: at least 0"),
        ("mixture", {"covariance_type": "round"}, r"covariance_type='round': not one"),
        ("spline-flow", {"n_layers": 0}, r"n_layers=0: at least 1"),
        ("spline-flow", {"n_bins": 1}, r"n_bins=1: at least 2"),
        ("spline-flow", {"patience": -1}, r"patience=-1: at least 0"),
        ("flow-matching", {"n_steps": 0}, r"n_steps=0: at least 1"),
        ("vae", {"beta": -0.1}, r"beta=-0.1: at least 0"),
        ("vae", {"beta": float("inf")}, r"beta=inf: at least 0"),
        ("vae", {"latent_dim": 0}, r"latent_dim=0: at least 1"),
        ("vae", {"n_epochs": 0}, r"n_epochs=0: at least 1"),
        ("planar-vae", {"K": -1}, r"K=-1: at least 0"),
        ("gan", {"latent_dim": 0}, r"latent_dim=0: at least 1"),
        ("gan", {"gamma": -1.0}, r"gamma=-1.0: at least 0"),
        ("gan", {"loss": "wgan"}, r"loss='wgan': not one of non-saturating, r1"),
        ("gan", {"widths": (4, 0)}, r"widths=\(4, 0\): all must be at least 1"),
    ],
)
def test_refusals(name, options, message, tmp_path):
    options = {**SMALL.get(name, {}), **options}
    with pytest.raises(ParameterError, match=message) as caught:
        latents.fit(
            name, codes(), seed=0, store=Store(tmp_path), inputs=["z"], **options
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SMALL)
def test_codes_that_cannot_be_modelled(name, tmp_path):
    z = codes()
    z[4, 1], z[5, 2] = torch.nan, torch.inf
    with pytest.raises(ParameterError, match=r"column 2 has values that are not"):
        fit(name, tmp_path, z)
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(ParameterError, match=r"codes of shape \(.*\): give at"):
            fit(name, tmp_path, torch.zeros(shape))


def test_one_code_is_too_few_to_hold_one_out_or_for_a_variance(tmp_path):
    with pytest.raises(ParameterError, match="1 code: at least 2"):
        fit("spline-flow", tmp_path, codes(1))
    with pytest.raises(ParameterError, match="k=1: at most 0 for 1 codes"):
        fit("mixture", tmp_path, codes(1), k=1)
    with pytest.raises(ParameterError, match="k=1: no variance is left"):
        fit("mixture", tmp_path, torch.ones(9, 3), k=1)


@pytest.mark.parametrize("tau", [1.0, 0.7])
def test_gaussian(tau, tmp_path):
    model = fit("gaussian", tmp_path, tau=tau)
    z = codes(9)
    expected = stats.multivariate_normal(np.zeros(3), tau**2).logpdf(z)
    np.testing.assert_allclose(model.log_prob(z), expected, rtol=1e-5)
    # Two-sided tests of 3 columns: a false alarm with probability .003.
    for column in model.sample(2000, seed=0).T:
        assert stats.kstest(column, stats.norm(0, tau).cdf).pvalue > 0.001
    assert model.history is None
    assert model.seconds == 0


def test_norm_matched_has_the_norms_and_no_direction(tmp_path):
    z = codes(50) * torch.tensor([5.0, 1.0, 0.1]) + 1
    draws = fit("norm-matched", tmp_path, z).sample(4000, seed=0)
    norms = draws.norm(dim=1)
    distances = (norms[:, None] - z.norm(dim=1)).abs()
    assert (distances.min(1).values < 1e-4).all()
    # Each of 50 norms 80 times: χ² with 49 degrees of freedom, false alarm .001.
    counts = distances.argmin(1).bincount(minlength=50)
    assert stats.chisquare(counts).pvalue > 0.001
    # A coordinate of a uniform direction in three dimensions is uniform.
    for column in (draws / norms[:, None]).T:
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > 0.001


def test_permuted_keeps_marginals_and_breaks_dependence(tmp_path):
    z = codes(200)
    z[:, 1] = z[:, 0].abs()
    z[:, 2] = z[:, 0] ** 3
    draws = fit("permuted", tmp_path, z).sample(8000, seed=0)
    for column, values in zip(draws.T, z.T, strict=True):
        # Each of 200 values 40 times: false alarm .001.
        counts = np.unique(column, return_counts=True)[1]
        assert np.isin(column, values).all()
        assert stats.chisquare(counts).pvalue > 0.001
    # Rank correlations, also of absolute values; false alarm .001 each.
    for a, b in ((0, 1), (0, 2), (1, 2)):
        for x in (draws, draws.abs()):
            assert stats.spearmanr(x[:, a], x[:, b]).pvalue > 0.001


def clusters(n=600, d=4):
    """Two Gaussians of different shapes."""
    z = codes(n, d)
    z[: n // 3] = z[: n // 3] @ codes(d, d, seed=1) / 2 + 2
    return z


def reference(model):
    """Our mixture as scikit-learn's."""
    P = model.precisions_cholesky.double()
    sk = GaussianMixture(
        len(model.weights), covariance_type="full" if P.ndim == 3 else "diag"
    )
    sk.weights_, sk.means_ = (
        model.weights.double().numpy(),
        model.means.double().numpy(),
    )
    sk.precisions_cholesky_ = P.numpy()
    P = P if P.ndim == 3 else P.diag_embed()
    sk.covariances_ = torch.linalg.inv(P @ P.mT).numpy()
    return sk


@pytest.mark.parametrize("kind", ["full", "tied", "diag"])
def test_mixture(kind, tmp_path):
    z = clusters()
    model = fit("mixture", tmp_path, z, covariance_type=kind)
    sk = reference(model)
    np.testing.assert_allclose(model.log_prob(z), sk.score_samples(z), atol=1e-4)
    # Without shrinkage it is scikit-learn's own fit.
    plain = fit(
        "mixture", tmp_path, z, covariance_type=kind, shrinkage=0.0, max_iter=40
    )
    own = GaussianMixture(
        2, covariance_type=kind, max_iter=40, random_state=0, tol=4e-3
    )
    own.fit(z.numpy())
    np.testing.assert_allclose(plain.log_prob(z), own.score_samples(z), atol=1e-3)
    assert plain.history.log_prob.iloc[-1] == pytest.approx(own.lower_bound_, abs=1e-4)
    assert plain.history.iteration.tolist() == list(range(1, own.n_iter_ + 1))
    # The moments of the model, and those of 40,000 draws (five standard errors).
    mean = sk.weights_ @ sk.means_
    centred = sk.means_ - mean
    covariance = np.einsum("k,kij->ij", sk.weights_, sk.covariances_)
    covariance += np.einsum("k,ki,kj->ij", sk.weights_, centred, centred)
    assert np.trace(covariance) == pytest.approx(
        z.var(0, correction=0).sum().item(), rel=1e-4
    )
    np.testing.assert_allclose(mean, z.mean(0), atol=1e-4)
    draws = model.sample(40_000, seed=0).double()
    products = draws[:, :, None] * draws[:, None, :]
    for found, expected in (
        (draws, mean),
        (products, covariance + np.outer(mean, mean)),
    ):
        error = (found.mean(0) - torch.as_tensor(expected)).abs()
        assert (error < 5 * found.std(0) / 40_000**0.5).all()


def test_mixture_shrinks_more_the_fewer_codes_it_has(tmp_path):
    """Without, ten components overfit 300 codes of dimension 20."""
    z, held_out = codes(300, 20), codes(300, 20, seed=1)
    best = fit("gaussian", tmp_path, z).log_prob(held_out).mean()
    plain, shrunk = (
        best - fit("mixture", tmp_path, z, k=10, **options).log_prob(held_out).mean()
        for options in ({"shrinkage": 0.0}, {})
    )
    assert plain > 5
    assert 0 < shrunk < plain / 2


def test_options_are_documented():
    source = Path(latents.__file__).parent
    for model in latents.MODELS.values():
        assert model.options.__doc__
        assert (source / f"{model.fit.__module__.rpartition('.')[2]}.py").exists()
