"""Densities in the plane, and the flows that are fitted to them.

All seeds are fixed; statistical tests allow five standard errors.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from latent_scattering import plane_targets, training
from latent_scattering.errors import ParameterError
from latent_scattering.plane_targets import Target, best_gaussian
from latent_scattering.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def points(n=200, seed=0):
    return 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).double()


def fit(root, name="mixture", **options):
    return plane_targets.fit(
        name, **{"K": 2, "n_epochs": 3, "seed": 0, "store": Store(root), **options}
    )


def test_mixture_is_scipys():
    z, eye = points(), np.eye(2)
    modes = [stats.multivariate_normal((m, m), eye).logpdf(z) for m in (-1.5, 1.5)]
    expected = np.logaddexp(*modes) - math.log(2)
    np.testing.assert_allclose(Target("mixture").log_prob(z), expected, atol=1e-6)


def test_energies_are_those_of_the_table():
    """Rezende & Mohamed, Table 1, as it is printed, within |z₁| ≤ 4."""

    def table(x, y):
        w1 = math.sin(2 * math.pi * x / 4)
        w2 = 3 * math.exp(-0.5 * ((x - 1) / 0.6) ** 2)
        w3 = 3 / (1 + math.exp(-(x - 1) / 0.3))

        def e(t):
            return math.exp(-0.5 * t**2)

        return {
            "U1": 0.5 * ((math.hypot(x, y) - 2) / 0.4) ** 2
            - math.log(e((x - 2) / 0.6) + e((x + 2) / 0.6)),
            "U2": 0.5 * ((y - w1) / 0.4) ** 2,
            "U3": -math.log(e((y - w1) / 0.35) + e((y - w1 + w2) / 0.35)),
            "U4": -math.log(e((y - w1) / 0.4) + e((y - w1 + w3) / 0.35)),
        }

    for x, y in points(50).clamp(-3.5, 3.5).tolist():
        for name, expected in table(x, y).items():
            found = plane_targets.ENERGIES[name](*torch.tensor([x, y]).double())
            assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", plane_targets.ENERGIES)
def test_targets_integrate_to_one(name):
    axis = torch.arange(-7.9, 7.9, 0.05).double() + 0.013
    total = Target(name).log_prob(torch.cartesian_prod(axis, axis)).exp().sum()
    assert total.item() * 0.05**2 == pytest.approx(1, abs=1e-3)


def test_best_gaussian_is_exact_where_there_is_one(monkeypatch):
    def energy(x, y):
        return (x - 1).square() / 2 + (y - x / 2).square() / 0.5

    monkeypatch.setitem(plane_targets.ENERGIES, "Gaussian", energy)
    target = Target("Gaussian")
    assert target.log_norm == pytest.approx(math.log(2 * math.pi * 0.5), abs=1e-6)
    assert best_gaussian(target) == pytest.approx(0, abs=1e-5)


def test_best_gaussian_of_the_mixture():
    """Better than one mode, and than N(0, I); not better than chance allows."""
    target = Target("mixture")
    found, draws = best_gaussian(target), points(40_000) / 2
    for shift in (0.0, 1.5):
        z = draws + shift
        base = stats.multivariate_normal((shift, shift), np.eye(2)).logpdf(z)
        costs = base - target.log_prob(z).numpy()
        assert found < costs.mean() + 5 * costs.std() / 200
    assert 0.05 < found < math.log(2)


def test_divergence_without_flows_is_that_of_the_start(tmp_path):
    found, error = fit(tmp_path, K=0).divergence(40_000, seed=3)
    axis = torch.arange(-8, 8, 0.05).double()
    grid = torch.cartesian_prod(axis, axis)
    base = -grid.square().sum(1) / 2 - math.log(2 * math.pi)
    costs = base.exp() * (base - Target("mixture").log_prob(grid)) * 0.05**2
    assert abs(found - costs.sum().item()) < 5 * error
    assert 0 < error < 0.05


def test_flows_split_the_gaussian(tmp_path):
    made = fit(tmp_path, K=8, n_epochs=600)
    divergence, error = made.divergence(20_000, seed=1)
    assert divergence + 5 * error < best_gaussian(made.target)
    right = made.sample(4000, seed=2).sum(1) > 0
    assert right.double().mean().item() == pytest.approx(0.5, abs=0.25)
    # The loss of an epoch is the divergence, on its draws.
    assert made.history.loss[-50:].mean() == pytest.approx(divergence, abs=0.1)
    density = made.flow.log_prob(made.sample(9, seed=2))
    assert density.isfinite().all()


def test_what_is_fitted_is_kept(tmp_path, monkeypatch):
    made = fit(tmp_path)

    def refuse(*arguments, **more):
        raise AssertionError("fitted again")

    monkeypatch.setattr(training, "fit", refuse)
    again = fit(tmp_path)
    assert torch.equal(again.sample(9, seed=0), made.sample(9, seed=0))
    assert again.history.equals(made.history)
    for changed in (
        {"name": "U1"},
        {"K": 3},
        {"n_epochs": 4},
        {"batch_size": 5},
        {"learning_rate": 0.1},
        {"constrained": False},
        {"seed": 1},
    ):
        with pytest.raises(AssertionError, match="fitted again"):
            fit(tmp_path, **changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "U5"}, "target 'U5': not one of mixture, U1, U2, U3, U4"),
        ({"K": -1}, "d=2, K=-1: at least 1 and 0"),
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"n_epochs": 0}, "n_epochs=0: at least 1"),
    ],
)
def test_refusals(options, message, tmp_path):
    with pytest.raises(ParameterError, match=message) as caught:
        fit(tmp_path, **options)
    assert "\n" not in str(caught.value)
