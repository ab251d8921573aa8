"""Tests of the distances between two sets: known answers, chance, naive forms.

All seeds are fixed. Where an answer is statistical, a right implementation passes with
probability above .999 over seeds.
"""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from scipy.spatial.distance import cdist, pdist

from latent_scattering import quality
from latent_scattering.errors import ParameterError

DISTANCES = {
    "sliced": lambda x, y: quality.sliced_wasserstein(x, y, seed=0),
    "mmd": quality.mmd,
    "kernel": quality.kernel,
    "frechet": quality.frechet,
}
ALL = {
    **DISTANCES,
    "prdc": lambda x, y: np.array(quality.prdc(x, y)),
    "two_sample": lambda x, y: np.array(quality.two_sample(x, y, seed=0)),
    "nearest": lambda x, y: quality.nearest(x, y).distances.numpy(),
}


def normal(n, k, *seed):
    return np.random.default_rng(seed).standard_normal((n, k))


def white(n, k, *seed):
    """Rows whose sample mean is 0 and whose sample covariance is I, exactly."""
    x = normal(n, k, *seed)
    q = np.linalg.qr(x - x.mean(0))[0]
    return q * math.sqrt(n - 1)


def modes(n, centres, *seed):
    """Clusters far apart in turn, three columns wide."""
    at = 100 * np.resize(centres, n)
    return normal(n, 3, *seed) + at[:, None]


# Against forms that say the definition, however slowly.


def naive_sliced(x, y, n_projections, seed):
    rng = np.random.Generator(np.random.Philox(seed))
    directions = rng.standard_normal((n_projections, x.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return np.mean([stats.wasserstein_distance(x @ d, y @ d) for d in directions])


def naive_unbiased(kernel, x, y):
    def mean(a, b, same=False):
        values = [
            kernel(u, v)
            for i, u in enumerate(a)
            for j, v in enumerate(b)
            if not (same and i == j)
        ]
        return np.mean(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y)


def naive_prdc(x, y, k):
    def radii(a):
        return np.sort(cdist(a, a), axis=1)[:, k]

    d = cdist(x, y)
    in_real, in_fake = d <= radii(x)[:, None], d <= radii(y)[None]
    return (
        in_real.any(0).mean(),
        in_fake.any(1).mean(),
        in_real.sum() / (k * len(y)),
        in_real.any(1).mean(),
    )


def naive_frechet(x, y):
    a, b = np.cov(x.T), np.cov(y.T)
    root = linalg.sqrtm(a @ b).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)


@pytest.mark.parametrize("m", [30, 47])
def test_against_naive_forms(m, monkeypatch):
    monkeypatch.setattr(quality, "BLOCK", 100)  # some rows a block, the last fewer
    x, y = normal(30, 4, 0) * [1, 2, 3, 4], normal(m, 4, 1) + 1
    sigma = np.median(pdist(x))

    def gaussian(a, b):
        square = ((a - b) ** 2).sum()
        return np.mean([np.exp(-square / (2 * (s * sigma) ** 2)) for s in (0.5, 1, 2)])

    expected = naive_unbiased(gaussian, x, y)
    # Of an even number of distances torch's median is the lower of the middle two.
    assert quality.mmd(x, y) == pytest.approx(expected, rel=0.01)
    expected = naive_unbiased(lambda a, b: (a @ b / 4 + 1) ** 3, x, y)
    assert quality.kernel(x, y) == pytest.approx(expected)
    assert quality.frechet(x, y) == pytest.approx(naive_frechet(x, y))
    assert quality.prdc(x, y, k=3) == pytest.approx(naive_prdc(x, y, 3))
    expected = naive_sliced(x, y, 20, 5)
    found = quality.sliced_wasserstein(x, y, n_projections=20, seed=5)
    assert found == pytest.approx(expected)
    index, distance = quality.nearest(x, y)
    assert index.tolist() == cdist(y, x).argmin(1).tolist()
    np.testing.assert_allclose(distance, cdist(y, x).min(1))


def test_mmd_of_three_and_two_numbers():
    x, y = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [5.0]])

    def k(distance):  # the median of 1, 2, 3 is 2
        return np.mean([math.exp(-((distance / s) ** 2) / 2) for s in (1, 2, 4)])

    within = (k(1) + k(3) + k(2)) / 3 + k(5)
    across = (k(0) + k(5) + k(1) + k(4) + k(3) + k(2)) / 6
    assert quality.mmd(x, y) == pytest.approx(within - 2 * across, rel=1e-12)


# The same set, and no set.


def test_identical_sets():
    x = normal(200, 5, 0)
    assert quality.sliced_wasserstein(x, x, seed=0) == 0
    assert quality.frechet(x, x) == pytest.approx(0, abs=1e-12)
    k = 4
    precision, recall, density, coverage = quality.prdc(x, x, k=k)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == (k + 1) / k  # every ball holds its centre and k neighbours
    assert quality.nearest(x, x).indices.tolist() == list(range(200))
    assert (quality.nearest(x, x).distances == 0).all()
    # Unbiased, so below 0: each row meets itself in the other set alone.
    for name in ("mmd", "kernel"):
        assert -0.1 < DISTANCES[name](x, x) < 0


# A shift, a scale.


def test_shift_has_closed_forms():
    k, shift = 6, 3.0
    x = normal(500, k, 0)
    delta = np.full(k, shift / math.sqrt(k))
    assert quality.frechet(x, x + delta) == pytest.approx(shift**2)
    # W₁ along θ is |δ·θ|, whose mean is ‖δ‖ Γ(k/2) / (√π Γ((k+1)/2)).
    mean = math.gamma(k / 2) / (math.sqrt(math.pi) * math.gamma((k + 1) / 2))
    error = shift * math.sqrt((1 / k - mean**2) / 4096)
    found = quality.sliced_wasserstein(x, x + delta, n_projections=4096, seed=0)
    assert found == pytest.approx(shift * mean, abs=3.3 * error)


def test_shift_lowers_precision_and_raises_distances():
    x, y = normal(400, 5, 0), normal(400, 5, 1)
    rows = [y + shift for shift in (0, 0.5, 1, 2)]
    for name, distance in DISTANCES.items():
        values = [distance(x, r) for r in rows]
        assert values == sorted(values), name
        assert values[-1] > 5 * abs(values[0]), name
    measured = np.array([quality.prdc(x, r) for r in rows])
    assert (np.diff(measured, axis=0) < 0).all()  # all four fall
    assert (measured[-1] < 0.4).all()
    accuracy = [quality.two_sample(x, r, seed=0).accuracy for r in rows]
    assert accuracy == sorted(accuracy) and accuracy[-1] > 0.95


def test_frechet_of_known_covariances_singular_ones_too():
    a, b = np.array([3.0, 1.0, 0.0, 0.0, 1e-6]), np.array([1.0, 0.0, 2.0, 0.0, 0.0])
    x, y = white(50, 5, 0) * a, white(80, 5, 1) * b + 1
    expected = 5 + ((a - b) ** 2).sum()
    assert quality.frechet(x, y) == pytest.approx(expected, rel=1e-10)
    # Of fewer rows than columns, both in one subspace, turned at random.
    turn = np.linalg.qr(normal(40, 40, 2))[0][:5]
    found = quality.frechet(x[:12] @ turn, y[:9] @ turn)
    assert found == pytest.approx(quality.frechet(x[:12], y[:9]), rel=1e-10)
    # Covariances that do not commute: {(R Rᵀ) of a plane} in closed form.
    u, v = np.array([1.0, 0.0]), np.array([0.6, 0.8])
    x, y = white(50, 1, 3) * u, white(50, 1, 4) * v
    assert quality.frechet(x, y) == pytest.approx(1 + 1 - 2 * 0.6, rel=1e-10)


def test_scale():
    x, y = normal(60, 4, 0), normal(70, 4, 1) + 0.5
    for name, power in {"sliced": 1, "frechet": 2, "mmd": 0}.items():
        once, thrice = DISTANCES[name](x, y), DISTANCES[name](3 * x, 3 * y)
        assert thrice == pytest.approx(3**power * once), name
    assert quality.prdc(3 * x, 3 * y) == quality.prdc(x, y)
    wide = quality.sliced_wasserstein(x[:, :1], 3 * x[:, :1], seed=0)
    assert wide == pytest.approx(2 * np.abs(x[:, 0]).mean())


# Modes that are missing.


def test_dropped_modes():
    x = modes(500, range(10), 0)
    y = modes(500, range(5), 1)
    precision, recall, _, coverage = quality.prdc(x, y)
    # Of 500 samples, a chance one lies outside all balls of its cluster.
    assert precision > 0.85
    assert 0.4 < recall <= 0.5 and 0.4 < coverage <= 0.5
    precision, recall, *_ = quality.prdc(y, x)  # invented modes: the other way round
    assert 0.4 < precision <= 0.5 and recall > 0.85


def test_class_balance():
    true = np.arange(1000) % 10
    assert quality.class_balance(true, true[::-1], 10) == 0
    assert quality.class_balance(true % 5, true, 10) == 0.5
    assert quality.class_balance(torch.tensor([0]), torch.tensor([1, 1]), 2) == 1
    skewed = torch.tensor([0, 0, 0, 1])
    assert quality.class_balance(skewed, torch.tensor([0, 1]), 3) == 0.25
    rng = np.random.default_rng(0)
    n, C = 1000, 10
    found = [quality.class_balance(*rng.integers(0, C, (2, n)), C) for _ in range(200)]
    assert np.mean(found) == pytest.approx(math.sqrt((C - 1) / (math.pi * n)), rel=0.06)


# Chance.


@pytest.mark.parametrize("name", ["mmd", "kernel"])
def test_unbiased(name):
    # The mean of 200 draws: beyond 3.3 standard errors with probability .001. Were the
    # rows' own terms counted, it would be 20 or 15 errors above.
    same = [
        DISTANCES[name](normal(12, 3, s, 0), normal(9, 3, s, 1)) for s in range(200)
    ]
    assert abs(np.mean(same)) < 3.3 * np.std(same) / math.sqrt(len(same))


def test_kernel_of_a_shift_is_unbiased_in_closed_form():
    # In one column (ab + 1)³ is the sum of C(3, p) aᵖ bᵖ, so the distance is that of
    # the moments of N(0, 1) and N(s, 1).
    def moments(s):
        return np.array([1, s, 1 + s**2, s**3 + 3 * s])

    expected = np.array([1, 3, 3, 1]) @ (moments(0) - moments(0.5)) ** 2
    found = [
        quality.kernel(normal(20, 1, s, 0), normal(30, 1, s, 1) + 0.5)
        for s in range(200)
    ]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - expected) < 3.3 * error
    assert error < expected / 5


def test_sliced_wasserstein_by_chance_is_as_stated():
    n, k = 500, 100
    # E|F − G| = √(4Φ(1 − Φ) / πn) at each point of the line.
    t = np.linspace(-9, 9, 9001)
    cdf = stats.norm.cdf(t)
    expected = np.trapezoid(np.sqrt(4 * cdf * (1 - cdf) / (math.pi * n)), t)
    assert expected == pytest.approx(1.8 / math.sqrt(n), rel=0.02)
    # Of one seed, directions are independent of rows; else it would be a quarter more.
    x = np.random.default_rng(0).standard_normal((n, k))
    found = quality.sliced_wasserstein(x, normal(n, k, 1), seed=0)
    assert found == pytest.approx(expected, rel=0.1)


def test_bias_of_frechet_is_as_stated():
    n, m, k = 1500, 3000, 40
    expected = k**2 * (1 / n + 1 / m) / 4
    found = [quality.frechet(normal(n, k, s, 0), normal(m, k, s, 1)) for s in range(5)]
    assert np.mean(found) == pytest.approx(expected, rel=0.15)


def test_density_and_coverage_by_chance():
    # For one distribution E density = 1; E coverage has a closed form (Naeem et al.)
    n, k = 60, 3
    uncovered = math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    found = [
        quality.prdc(normal(n, 2, s, 0), normal(n, 2, s, 1), k=k) for s in range(60)
    ]
    measured = np.array(found)
    error = measured.std(0) / math.sqrt(len(found))
    assert abs(measured[:, 2].mean() - 1) < 3.3 * error[2]
    assert abs(measured[:, 3].mean() - (1 - uncovered)) < 3.3 * error[3]
    # One distribution, so exchanging the sets exchanges precision and recall.
    assert abs(measured[:, 0].mean() - measured[:, 1].mean()) < 5 * error[:2].max()


def test_two_sample_by_chance_and_with_power():
    # 60 repetitions at .05: 3 are expected, above 10 come with probability .02 %.
    alarms, contained = 0, 0
    for seed in range(60):
        test = quality.two_sample(
            normal(60, 3, seed, 0), normal(80, 3, seed, 1), seed=seed
        )
        alarms += test.p <= 0.05
        contained += test.low <= 0.5 <= test.high
    assert alarms <= 10 and contained >= 50
    # A sphere of the same covariance: told by its radius, not by its direction.
    x, y = normal(200, 3, 0), normal(200, 3, 1)
    y *= math.sqrt(3) / np.linalg.norm(y, axis=1, keepdims=True)
    test = quality.two_sample(x, y, seed=0)
    assert test.low > 0.5 and test.p < 1e-3
    apart = quality.two_sample(x, y + 100, seed=0)
    assert apart.accuracy == apart.high == 1
    assert apart.p == pytest.approx(2.0**-200, rel=1e-9, abs=0)
    assert apart.low == pytest.approx(0.025 ** (1 / 200))


def test_two_sample_uses_no_more_rows_than_stated():
    x, y = normal(300, 2, 0), normal(200, 2, 1) + 100
    for n_rows, judged in ((40, 40), (41, 40), (2_000, 200)):
        p = quality.two_sample(x, y, n_rows=n_rows, seed=0).p
        assert p == pytest.approx(2.0**-judged, rel=1e-9, abs=0)
    near = [quality.two_sample(x, y - 99.5, n_rows=100, seed=s) for s in range(3)]
    assert len(set(near)) > 1


# What must not matter.


def test_two_sample_weighs_columns_alike():
    x, y = normal(200, 3, 0), normal(200, 3, 1) + np.array([1, 0, 0])
    units = [1e-3, 1, 1e3]
    expected = quality.two_sample(x, y, seed=0)
    assert expected.p < 1e-3
    assert quality.two_sample(x * units, y * units, seed=0) == expected


@pytest.mark.parametrize("name", ALL)
def test_order_blocks_and_types_do_not_matter(name, monkeypatch):
    x, y = normal(50, 3, 0), normal(61, 3, 1) + 0.3
    expected = ALL[name](x, y)
    single = ALL[name](torch.from_numpy(x).float(), torch.from_numpy(y).float())
    np.testing.assert_allclose(single, expected, rtol=1e-4)
    monkeypatch.setattr(quality, "BLOCK", 200)
    np.testing.assert_allclose(ALL[name](x, y), expected, rtol=1e-12)
    if name != "two_sample":
        order = np.random.default_rng(2).permutation(50)
        np.testing.assert_allclose(ALL[name](x[order], y), expected, rtol=1e-12)
    if name not in ("two_sample", "nearest"):
        np.testing.assert_allclose(ALL[name](x, y[::-1]), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["sliced", "kernel", "frechet"])
def test_symmetry(name):
    x, y = normal(50, 3, 0), normal(61, 3, 1) + 0.3
    assert DISTANCES[name](y, x) == pytest.approx(DISTANCES[name](x, y), rel=1e-12)


def test_exchange_of_sets_exchanges_precision_and_recall():
    x, y = normal(50, 3, 0), normal(61, 3, 1) + 0.3
    there, back = quality.prdc(x, y), quality.prdc(y, x)
    assert (there.precision, there.recall) == (back.recall, back.precision)


def test_inputs_stay_as_they_are():
    x, y = torch.from_numpy(normal(30, 3, 0)), torch.from_numpy(normal(30, 3, 1))
    before = x.clone(), y.clone()
    x.requires_grad_()
    for measure in ALL.values():
        measure(x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert x.requires_grad
    frozen = normal(30, 3, 0)
    frozen.flags.writeable = False
    assert quality.frechet(frozen, frozen) == pytest.approx(0, abs=1e-12)


def test_seeds():
    x, y = normal(30, 5, 0), normal(30, 5, 1)
    one, same, other = (
        quality.sliced_wasserstein(x, y, n_projections=8, seed=s) for s in (0, 0, 1)
    )
    assert one == same != other


# What is refused.


@pytest.mark.parametrize("name", ALL)
def test_refusals(name):
    x, bad = normal(30, 3, 0), normal(30, 3, 1)
    bad[4, 1] = np.nan
    with pytest.raises(ParameterError, match=r"^y: column 2 has values .* not finite$"):
        ALL[name](x, bad)
    with pytest.raises(ParameterError, match=r"^x: column 2 has"):
        ALL[name](np.where(np.isnan(bad), -np.inf, bad), x)
    with pytest.raises(ParameterError, match=r"^x has 3 columns, y 2: the same"):
        ALL[name](x, x[:, :2])
    with pytest.raises(ParameterError, match=r"^x has 0 columns"):
        ALL[name](x[:, :0], x[:, :0])
    with pytest.raises(ParameterError, match=r"^y: 0 rows; at least"):
        ALL[name](x, x[:0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: quality.prdc(x, x[:5]), "^y: 5 rows; at least 6 .* k=5 neighbours$"),
        (lambda x: quality.prdc(x, x, k=0), "^k=0: at least 1"),
        (lambda x: quality.two_sample(x, x[:19], seed=0), "^y: 19 rows; at least 20"),
        (lambda x: quality.two_sample(x, x, n_rows=19, seed=0), "^n_rows=19"),
        (lambda x: quality.two_sample(x, x, level=1.0, seed=0), "level=1.0"),
        (lambda x: quality.mmd(x[:1], x), "^x: 1 rows; at least 2 are wanted$"),
        (lambda x: quality.mmd(0 * x + 0.1, x), "^x: most rows are equal"),
        (
            lambda x: quality.sliced_wasserstein(x, x, n_projections=0, seed=0),
            "^n_projections=0",
        ),
    ],
)
def test_more_refusals(call, message):
    with pytest.raises(ParameterError, match=message):
        call(normal(30, 3, 0))


def test_refused_labels():
    labels = torch.arange(4)
    with pytest.raises(ParameterError, match=r"^true: labels 0 … 3; 0 … 2 are allowed"):
        quality.class_balance(labels[:2], labels, 3)
    with pytest.raises(ParameterError, match=r"^predicted: labels -1 … 2"):
        quality.class_balance(labels - 1, labels, 4)
    with pytest.raises(ParameterError, match=r"^predicted: no labels"):
        quality.class_balance(labels[:0], labels, 4)
