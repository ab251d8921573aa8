"""Tests of Gaussianity, on fixed seeds; false-alarm rates stated are over seeds."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from latent_scattering import normality
from latent_scattering.errors import ParameterError
from latent_scattering.store import Store


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def count(z, test, level=0.05, **options):
    """Rejections by one test."""
    table = normality.rejections(normality.tests(z, **options))
    return table.set_index(["test", "level"]).rejected[test, level]


def allowed(d, level=0.05):
    """Counts that 99.9 % of d independent true nulls give."""
    return stats.binom.ppf([0.0005, 0.9995], d, level)


def test_tests_are_scipys_whatever_the_blocks(rng, monkeypatch):
    z = rng.standard_normal((50, 7)).astype(np.float32)
    monkeypatch.setattr(normality, "BLOCK", 100)  # two columns at a time
    table = normality.tests(z).set_index(["test", "component"])
    assert len(table) == 14
    for i, column in enumerate(z.T.astype(float), start=1):
        for test, function in normality.TESTS.items():
            expected = function(column)
            assert table.statistic[test, i] == pytest.approx(expected.statistic)
            assert table.p[test, i] == pytest.approx(expected.pvalue)


def test_monte_carlo_p_values_are_right_where_asymptotic_ones_are_not(rng, tmp_path):
    # 3,000 Gaussian columns of 20; false-alarm rate .1 % a line.
    z = rng.standard_normal((20, 3000))
    null = normality.null(20, n_samples=5000, seed=1, store=Store(tmp_path))
    for test in normality.TESTS:
        for level in normality.LEVELS:
            low, high = allowed(3000, level)
            assert low <= count(z, test, level, null=null) <= high
    assert count(z, "JB") < allowed(3000)[0]  # far too few at .05 …
    assert count(z, "K²", 0.01) > allowed(3000, 0.01)[1]  # … too many at .01


def test_null_is_kept_and_depends_on_its_seed(tmp_path):
    store = Store(tmp_path)
    first, again = (normality.null(20, n_samples=50, seed=1, store=store) for _ in "ab")
    other = normality.null(20, n_samples=50, seed=2, store=store)
    assert len(list(tmp_path.glob("normality-null/*/manifest.json"))) == 2
    assert (first["JB"] == again["JB"]).all()
    assert (first["JB"] != other["JB"]).any()
    assert (np.diff(first["JB"]) >= 0).all()


def test_monte_carlo_p_counts_the_samples_at_least_as_extreme():
    z = np.random.default_rng(0).standard_normal((30, 1))
    jb = stats.jarque_bera(z[:, 0]).statistic
    null = {"K²": np.array([0.0]), "JB": np.array([jb - 1, jb, jb + 1])}
    table = normality.tests(z, null=null).set_index("test")
    assert table.p["JB"] == pytest.approx(3 / 4)


def test_false_alarms_on_gaussian_marginals_and_power_on_others(rng):
    # 500 rows, 400 columns; false-alarm rate .1 %. Power, asserted: of all columns.
    n, d = 500, 400
    gaussian = rng.standard_normal((n, d))
    coupled = gaussian * rng.choice([-1, 1], (n, 1))  # dependent, Gaussian marginals
    coupled[:, 1::2] = coupled[:, ::2] * rng.choice([-1, 1], (n, 1))
    laplace = rng.laplace(size=(n, d))
    radial = gaussian * rng.choice([0.5, 1.5], (n, 1))
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    for test in normality.TESTS:
        assert allowed(d)[0] <= count(gaussian, test) <= allowed(d)[1]
        # Half as many columns are distinct: the band is that of d / 2, twice.
        assert (2 * allowed(d // 2))[0] <= count(coupled, test)
        assert count(coupled, test) <= (2 * allowed(d // 2))[1]
        assert count(laplace, test) == d
        assert count(radial, test) >= 0.95 * d
        # Rotation, by the central limit theorem, hides what is not Gaussian.
        assert count(laplace @ turn, test) <= 2 * allowed(d)[1]


def test_counts_do_not_see_dependence(rng):
    z = rng.laplace(size=(200, 30)) * rng.choice([0.5, 1.5], (200, 1))
    permuted = rng.permuted(z, axis=0)
    for test in normality.TESTS:
        assert count(z, test) == count(permuted, test) > 10


def test_adjusted_p_values_of_a_known_case():
    table = normality.tests(np.random.default_rng(0).standard_normal((20, 4)))
    table["p"] = [0.01, 0.02, 0.03, 0.04, 0.001, 0.6, 0.7, 0.8]
    adjusted = normality.adjust(table)
    assert adjusted.p_holm[:4].tolist() == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert adjusted.p_bh[:4].tolist() == pytest.approx([0.04] * 4)
    assert adjusted.p_holm[4:].tolist() == pytest.approx([0.004, 1, 1, 1])
    counted = normality.rejections(table, levels=[0.05]).set_index("test")
    assert counted.rejected.to_dict() == {"K²": 4, "JB": 1}
    assert counted.holm.to_dict() == {"K²": 1, "JB": 1}
    assert counted.bh.to_dict() == {"K²": 4, "JB": 1}


def test_band_of_the_paper():
    assert normality.band(512, 0.05) == (16, 36)
    assert normality.band(512, 0.01) == (1, 10)


def test_sweep_counts_more_with_more_rows(rng):
    z = rng.laplace(size=(400, 40))
    null = {"K²": np.full(99, np.inf), "JB": np.full(99, np.inf)}  # rejects nothing
    table = normality.sweep(z, [20, 100, 400], n_subsets=3, nulls={20: null}, seed=0)
    mean = table.groupby(["test", "method", "level", "n"]).rejected.mean()
    subsets = table.groupby(["n", "method"]).subset.nunique().to_dict()
    assert subsets == {
        (20, "asymptotic"): 3,
        (20, "Monte Carlo"): 3,
        (100, "asymptotic"): 3,
        (400, "asymptotic"): 1,
    }
    for test in normality.TESTS:
        assert mean[test, "Monte Carlo", 0.05, 20] == 0
        assert mean[test, "asymptotic", 0.05].is_monotonic_increasing
        assert mean[test, "asymptotic", 0.05, 400] == count(z, test) == 40


def test_subsets_differ(rng):
    z = np.concatenate([rng.standard_normal((200, 60)), rng.laplace(size=(200, 60))])
    table = normality.sweep(z, [100], n_subsets=6, seed=0)
    assert table[table.test == "K²"].groupby("level").rejected.nunique().min() > 1


def test_size_of_a_count():
    curve = {10: 2.0, 100: 6.0, 1000: 4.0, 10000: 100.0}
    assert normality.size_of_count(curve, 4.0) == pytest.approx(10**1.5)
    assert normality.size_of_count(curve, 6.0) == pytest.approx(100)
    assert np.isnan(normality.size_of_count(curve, 1.0))
    assert np.isnan(normality.size_of_count(curve, 101.0))


def test_intervals_of_effect_sizes_cover_the_truth(rng):
    # Nominally 95 %, of 600 columns of 2,000; tails make those of the kurtosis short.
    uniform, gamma = rng.uniform(size=(2000, 600)), rng.gamma(16, size=(2000, 600))
    for z, skewness, kurtosis, least in (
        (uniform, 0, -1.2, 0.92),
        (gamma, 0.5, 6 / 16, 0.85),
    ):
        table = normality.effect_sizes(z).set_index("measure")
        for measure, truth in {
            "skewness": skewness,
            "excess kurtosis": kurtosis,
        }.items():
            rows = table.loc[measure]
            assert least < ((rows.low < truth) & (truth < rows.high)).mean() < 0.98
            assert rows.value.mean() == pytest.approx(truth, abs=0.02)


def test_effect_sizes_of_a_gaussian(rng):
    z = rng.standard_normal((20_000, 3))
    table = normality.effect_sizes(z)
    assert table.component.tolist() == [1, 2, 3] * 2
    width = (table.high - table.low).groupby(table.measure).mean() / (2 * 1.96)
    assert width["skewness"] == pytest.approx((6 / 20_000) ** 0.5, rel=0.1)
    assert width["excess kurtosis"] == pytest.approx((24 / 20_000) ** 0.5, rel=0.15)
    found = table.value.to_numpy().reshape(2, 3)
    np.testing.assert_allclose(found, [stats.kurtosis(z), stats.skew(z)], atol=1e-12)


def test_medians_of_halves(rng):
    z = rng.gamma(4, size=(300, 7))
    found = normality.median_effects(z, n_halves=3, seed=5)
    expected = [np.median(np.abs(f(z))) for f in (stats.skew, stats.kurtosis)]
    np.testing.assert_allclose(found.iloc[0], expected, rtol=1e-8)
    few = normality.median_effects(np.repeat(z[:20], 2, axis=0), n_halves=4, seed=1)
    assert few.skewness.nunique() == 5
    again = normality.median_effects(z, n_halves=3, seed=5)
    pd.testing.assert_frame_equal(found, again)


def test_interval_of_a_difference_covers_it(rng):
    # Of noise, the worst case, the interval is wide: at most 5 of 40 misses.
    # Of true effects: within what 40 repetitions at .05 leave with probability .999.
    for scale, most in ((0.0, 5), (0.5, 7)):
        missed = 0
        for seed in range(40):
            u = rng.standard_normal((2, 300, 60))
            z = np.sinh(scale * u) if scale else u
            one, other = (
                normality.median_effects(x, n_halves=60, seed=seed)["skewness"]
                for x in z
            )
            value, low, high = normality.difference(one, other)
            assert value == one[0] - other[0]
            missed += not low <= 0 <= high
        assert missed <= most
    wide = normality.median_effects(np.sinh(u[0]), seed=0)["excess kurtosis"]
    plain = normality.median_effects(u[0], seed=0)["excess kurtosis"]
    assert normality.difference(wide, plain)[1] > 0


@pytest.mark.parametrize("function", [normality.tests, normality.effect_sizes])
def test_what_cannot_be_tested_is_said_in_one_line(function):
    z = np.random.default_rng(0).standard_normal((20, 4))
    function(z)
    with pytest.raises(ParameterError, match=r"column 1: 19 values.* at least 20"):
        function(z[:19])
    with pytest.raises(ParameterError, match="no column"):
        function(z[:, :0])
    z[3, 1] = np.nan
    with pytest.raises(ParameterError, match="column 2 has values that are not finite"):
        function(z)
    z[:, 1] = 0.1
    with pytest.raises(ParameterError, match="column 2 is constant"):
        function(z)
