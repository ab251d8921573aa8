"""Densities in the plane, and the flows that are fitted to them.

All seeds are fixed; statistical tests allow five standard errors.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from latent_scattering import planar_flow, plane_targets, training
from latent_scattering.errors import ParameterError
from latent_scattering.plane_targets import Target, best_gaussian
from latent_scattering.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def points(n=200, seed=0):
    return 2 * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).double()


def fit(root, names=("mixture",), **options):
    return plane_targets.fit(
        names, **{"K": 2, "n_steps": 3, "seeds": [0], "store": Store(root), **options}
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
    assert found.shape == error.shape == (1, 1)
    assert abs(found.item() - costs.sum().item()) < 5 * error.item()
    assert 0 < error.item() < 0.05


def test_flows_split_the_gaussian(tmp_path):
    made = fit(tmp_path, K=8, n_steps=600)
    divergence, error = (x.item() for x in made.divergence(20_000, seed=1))
    assert divergence + 5 * error < best_gaussian(Target("mixture"))
    right = made.sample(4000, seed=2)[0, 0].sum(1) > 0
    assert right.double().mean().item() == pytest.approx(0.5, abs=0.25)
    # The trace is the divergence, on each step's draws.
    assert made.trace.shape == (600, 1, 1)
    assert made.trace[-50:].mean().item() == pytest.approx(divergence, abs=0.1)
    assert made.slopes().shape == (1, 1, 8)
    assert made.slopes().min() > -1


def test_density_is_that_of_the_draws(tmp_path):
    """It integrates to 1, and gives the divergence once more."""
    made = fit(tmp_path, K=4, n_steps=200, seeds=[0, 1])
    axis = torch.arange(-7.9, 7.9, 0.1).double() + 0.013
    grid = torch.cartesian_prod(axis, axis)
    log_q = made.log_prob(grid.float()).double()
    assert log_q.shape == (1, 2, len(grid))
    np.testing.assert_allclose(log_q.exp().sum(-1) * 0.1**2, 1, atol=2e-3)
    costs = log_q.exp() * (log_q - Target("mixture").log_prob(grid)) * 0.1**2
    found, error = made.divergence(40_000, seed=3)
    assert ((costs.sum(-1) - found).abs() < 5 * error + 1e-3).all()


def test_flows_are_the_same_alone(tmp_path):
    """Whatever targets and seeds are trained beside them, in blocks or not."""
    together = fit(tmp_path, ["U1", "U4"], n_steps=20, seeds=[3, 1])
    alone = fit(tmp_path, ["U4"], n_steps=20, seeds=[1])
    torch.testing.assert_close(together.trace[:, 1, 1], alone.trace[:, 0, 0])
    torch.testing.assert_close(together.slopes()[1, 1], alone.slopes()[0, 0])
    assert (together.trace[:, 1, 0] - together.trace[:, 1, 1]).abs().min() > 1e-5
    assert (together.trace[:, 0] - together.trace[:, 1]).abs().min() > 1e-5
    assert together.sample(9, seed=0).shape == (2, 2, 9, 2)


def test_each_seed_and_step_has_draws_of_its_own_and_each_seed_first_flows(tmp_path):
    # Steps so small that the flows stay what they are in the beginning.
    made = fit(tmp_path, seeds=[1, 2], batch_size=50, learning_rate=1e-12)
    for i, seed in enumerate(made.seeds):
        planes = planar_flow.initial(2, 2, seed=seed)
        noise = plane_targets._generator(seed, 0)
        draws = torch.randn(plane_targets.BLOCK, 50, 2, generator=noise)
        for step, z in enumerate(draws[:3]):
            z_K, log_det = planar_flow.flow(z, planes)
            log_q = -z.square().sum(1) / 2 - math.log(2 * math.pi) - log_det
            cost = (log_q - Target("mixture").log_prob(z_K)).mean().item()
            assert made.trace[step, 0, i].item() == pytest.approx(cost, abs=1e-5)


@pytest.mark.parametrize("constrained", [True, False])
def test_slopes(constrained, tmp_path):
    made = fit(tmp_path, K=1, constrained=constrained)
    # u, w and b of a flow with wᵀu = −3.
    made.network.planes.data[:] = torch.tensor([-3.0, 0.0, 1.0, 0.0, 0.5])
    expected = math.log1p(math.exp(-3)) - 1 if constrained else -3.0
    assert made.slopes().item() == pytest.approx(expected, abs=1e-6)


def test_what_is_fitted_is_kept(tmp_path, monkeypatch):
    made = fit(tmp_path)

    def refuse(*arguments, **more):
        raise AssertionError("fitted again")

    monkeypatch.setattr(training, "fit", refuse)
    again = fit(tmp_path)
    assert torch.equal(again.sample(9, seed=0), made.sample(9, seed=0))
    assert torch.equal(again.trace, made.trace)
    for changed in (
        {"names": ["U1"]},
        {"K": 3},
        {"n_steps": 4},
        {"batch_size": 5},
        {"learning_rate": 0.1},
        {"constrained": False},
        {"seeds": [1]},
    ):
        with pytest.raises(AssertionError, match="fitted again"):
            fit(tmp_path, **changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["U5"]}, "target 'U5': not one of mixture, U1, U2, U3, U4"),
        ({"K": -1}, "d=2, K=-1: at least 1 and 0"),
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"n_steps": 0}, "n_steps=0: at least 1"),
        ({"names": []}, "0 targets"),
        ({"seeds": []}, r"seeds=\[\]: one or more"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]: one or more different"),
    ],
)
def test_refusals(options, message, tmp_path):
    with pytest.raises(ParameterError, match=message) as caught:
        fit(tmp_path, **options)
    assert "\n" not in str(caught.value)
