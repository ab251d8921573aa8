"""Tests of dependence, on vectors of known dependence.

All seeds are fixed. Each test of dependence runs at the level .05; its false-alarm
rate and power are counted over repetitions, and the bounds asserted are those that a
right implementation passes with probability above .995 over seeds.
"""

import numpy as np
import pytest
from scipy import stats
from sklearn.feature_selection import mutual_info_regression

from latent_scattering import dependence
from latent_scattering.errors import ParameterError

FEW = {"n_permutations": 19}  # the least for a p of .05
TESTS = {
    "squares": lambda z, seed, **k: dependence.squares(z, seed=seed, **FEW, **k),
    "norms": lambda z, seed, **k: dependence.norms(z, seed=seed, **FEW, **k),
    "distances": lambda z, seed, **k: dependence.distances(z, seed=seed, **FEW, **k),
    "information": lambda z, seed, **k: dependence.information(
        z, seed=seed, **FEW, **k
    ),
    "first": lambda z, seed, **k: dependence.first_against_rest(
        z, seed=seed, **FEW, **k
    ),
    "classifier": lambda z, seed, null="independent": dependence.classifier(
        z, against=null, seed=seed
    ),
}


def gaussian(n, rng):
    return rng.standard_normal((n, 2))


def laplace(n, rng):
    return rng.laplace(size=(n, 2))


def rotated(n, rng):
    """Independent, not Gaussian, turned by 45°: white and dependent."""
    return rng.laplace(size=(n, 2)) @ np.array([[1, 1], [1, -1]]) / 2


def radial(n, rng):
    """A Gaussian times a common scale: white, its directions uniform."""
    return rng.standard_normal((n, 2)) * rng.choice([0.4, 1.6], (n, 1))


def coupled(n, rng):
    """White with Gaussian marginals, and |z₁| = |z₂|."""
    z = rng.standard_normal((n, 2))
    z[:, 1] = z[:, 0] * rng.choice([-1, 1], n)
    return z


def correlated(n, rng):
    """A Gaussian vector whose components have the correlation .5."""
    return rng.standard_normal((n, 2)) @ np.array([[1, 0.5], [0, 0.75**0.5]])


def wide(n, rng):
    """As held-out digits: many columns, weakly correlated, with heavy tails."""
    mixing = np.eye(128) + 0.03 * np.random.default_rng(1).standard_normal((128, 128))
    return np.sinh(rng.standard_normal((n, 128)) @ mixing)


def rate(test, control, n, repetitions, **changed):
    """Share of repetitions in which the null is rejected at .05."""
    p = [
        TESTS[test](control(n, np.random.default_rng([seed, 7])), seed, **changed).p[0]
        for seed in range(repetitions)
    ]
    return np.mean(np.array(p) <= 0.05)


@pytest.mark.parametrize("control", [gaussian, laplace])
@pytest.mark.parametrize("test", TESTS)
def test_false_alarms_are_as_stated(test, control):
    # 40 repetitions at .05: 2 are expected, above 7 come with probability .1 %.
    assert rate(test, control, 100, 40) <= 7 / 40


@pytest.mark.parametrize("test", TESTS)
def test_linear_dependence_is_a_false_alarm_only_for_the_linear_null(test):
    assert rate(test, correlated, 100, 40, null="linear") <= 7 / 40
    if test != "norms":  # the weakest against correlation
        assert rate(test, correlated, 300, 10) >= 0.9


@pytest.mark.parametrize("test", ["squares", "norms", "first", "classifier"])
def test_false_alarms_with_as_many_components_as_the_digits(test):
    # 20 repetitions: 1 is expected, above 4 come with probability .3 %.
    assert rate(test, wide, 360, 20, null="linear") <= 4 / 20


def test_many_weak_correlations_are_dependence_but_linear():
    assert rate("first", wide, 360, 10) >= 0.5


def test_the_classifier_is_right_half_the_time_by_chance():
    # 20 repetitions at 360 × 128: not above ½ by 4 deviations, and little below it.
    for null in ("independent", "linear"):
        found = []
        for seed in range(20):
            rng = np.random.default_rng([seed, 9])
            z = wide(360, rng)
            copy = dependence.Copies(z, null).draw(z, rng)
            row = dependence.classifier(copy, against=null, n_splits=3, seed=seed)
            found.append(row.statistic[0])
        assert 0.475 < np.mean(found) < 0.5 + 4 * np.std(found) / 20**0.5


@pytest.mark.parametrize("control", [rotated, radial, coupled])
@pytest.mark.parametrize("null", ["independent", "linear"])
@pytest.mark.parametrize("test", TESTS)
def test_power_is_as_stated(test, null, control):
    # Power at n = 1,000 over 20 repetitions elsewhere: .9 for the mutual information of
    # what is rotated or radial, 1 for all others.
    weak = test == "information" and control is not coupled
    assert rate(test, control, 1000, 10, null=null) >= (0.6 if weak else 0.9)


def test_pairs_are_found_and_only_they():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 5))
    z[:, [1, 3]] = coupled(400, rng)
    for test in ("squares", "distances", "information"):
        table = TESTS[test](z, 0)
        assert len(table) == 1 + 10
        pairs = table.dropna(subset="first")
        found = pairs[pairs.p <= 0.05]
        assert found[["first", "second"]].to_numpy().tolist() == [[2, 4]]
        assert pairs.statistic.idxmax() == found.index[0]
        assert (pairs.null_95 < pairs.statistic).sum() == 1
        assert table.p[0] == 0.05
        assert table.statistic[0] == pytest.approx(
            np.sqrt((pairs.statistic**2).mean()), rel=1e-6
        )


def test_each_pair_has_the_threshold_of_its_own_spread():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((100, 4))
    z[:, 2:] = (rng.random((100, 2)) < 0.05) + 0.001 * z[:, 2:]  # a few large values
    table = dependence.distances(z, seed=0, n_permutations=99).iloc[1:]
    above = (table.null_95 - table.null_mean).to_numpy()
    assert above[0] > 2 * above[-1]


def test_false_alarms_over_all_pairs_together():
    # Heavy tails, 45 pairs at once, 40 repetitions: above 7 with probability .1 %.
    alarms = 0
    for seed in range(40):
        z = np.random.default_rng(seed).laplace(size=(100, 10))
        alarms += dependence.squares(z, seed=seed, **FEW).p[1:].min() <= 0.05
    assert alarms <= 7


@pytest.mark.parametrize("null", ["independent", "linear"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_copies_keep_the_values_of_each_column(null, order):
    z = np.random.default_rng(0).standard_normal((50, 3)) * [1, 10, 100]
    z = np.array(z, np.float32, order=order)
    copy = dependence.Copies(z, null).draw(z, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(copy, axis=0), np.sort(z, axis=0))
    assert (copy != z).mean() > 0.8


def test_permuted_columns_keep_their_values():
    z = np.random.default_rng(0).standard_normal((50, 3))
    copy = dependence.permuted(z, seed=1)
    np.testing.assert_array_equal(np.sort(copy, axis=0), np.sort(z, axis=0))
    assert (copy != z).any()
    assert np.argsort(copy, axis=0).T.tolist() != np.argsort(z, axis=0).T.tolist()


def test_linear_copies_keep_marginals_and_correlations_only():
    z = radial(5000, np.random.default_rng(0)) @ np.array([[1, 0.4], [0, 0.6]])
    copies = dependence.Copies(z, "linear")
    copy = copies.draw(z, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(copy, axis=0), np.sort(z, axis=0))
    ranks = [dependence.gaussianised(x) for x in (z, copy)]
    true, found = (np.corrcoef(r.T)[0, 1] for r in ranks)
    assert found == pytest.approx(true, abs=4 / 5000**0.5)
    squared = [dependence.square_correlations(r)[0, 1] for r in ranks]
    assert squared[1] == pytest.approx(true**2, abs=0.08)  # a Gaussian vector's
    assert squared[0] > squared[1] + 0.1


@pytest.mark.parametrize(
    "few",
    [
        np.random.default_rng(2).standard_normal((360, 128)),
        wide(360, np.random.default_rng(2)),
    ],
)
def test_linear_copies_of_few_rows_are_as_correlated_as_these(few):
    def size(x):
        r = np.corrcoef(dependence.gaussianised(x).T)
        return np.sqrt(np.mean(r[~np.eye(128, dtype=bool)] ** 2))

    copies, rng = dependence.Copies(few, "linear"), np.random.default_rng(3)
    sizes = [size(copies.draw(few, rng)) for _ in range(9)]
    assert np.median(sizes) == pytest.approx(size(few), rel=0.06)


def test_gaussianised_columns_are_gaussian_and_in_order():
    z = np.random.default_rng(0).exponential(size=(1000, 3))
    mapped = dependence.gaussianised(z)
    np.testing.assert_array_equal(mapped.argsort(0), z.argsort(0))
    assert np.sort(mapped[:, 0]) == pytest.approx(
        stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    )


def test_measures_of_pairs():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((2000, 3))
    z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
    np.testing.assert_allclose(
        dependence.square_correlations(z), np.corrcoef(z.T**2), atol=1e-12
    )
    information = dependence.mutual_information(z)
    assert information[0, 1] == pytest.approx(-np.log(0.6), abs=0.05)
    assert information[0, 2] == pytest.approx(0, abs=0.05)


def test_distance_correlations_equal_dcors():
    # What dcor 0.7 gives, `u_distance_correlation_sqr`.
    z = np.sin(np.arange(60.0) ** 2).reshape(20, 3)
    expected = [-0.042220878196746844, -0.013827270586644314, -0.06696560601873322]
    matrix = dependence.distance_correlations(z)
    assert matrix[np.triu_indices(3, 1)] == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    first = dependence.first_against_rest(z, seed=0).loc[0]
    assert first.statistic == pytest.approx(0.002963183904081256, abs=1e-12)


@pytest.mark.parametrize("kind", ["double", "single", "rounded"])
def test_mutual_information_equals_scikit_learns(kind):
    z = np.random.default_rng(0).standard_normal((200, 3))
    z[:, 2] += z[:, 0] ** 2
    z = {"double": z, "single": z.astype(np.float32), "rounded": z.round(1)}[kind]
    matrix = dependence.mutual_information(z)
    expected = [
        mutual_info_regression(z[:, [i]], z[:, j], random_state=0)[0]
        for i, j in [(0, 1), (0, 2), (1, 2)]
    ]
    # Among equal values, noise decides: another one here than in scikit-learn.
    tolerance = 0.03 if kind == "rounded" else 1e-6
    assert matrix[np.triu_indices(3, 1)] == pytest.approx(expected, abs=tolerance)
    np.testing.assert_array_equal(matrix, matrix.T)


@pytest.mark.parametrize("null", ["independent", "linear"])
def test_first_against_rest_by_chance(null):
    z = np.random.default_rng(0).laplace(size=(60, 4))
    z[:, 2] += z[:, 0] ** 2
    row = dependence.first_against_rest(z, seed=0, null=null).loc[0]
    assert row.p == 0.01
    assert abs(row.null_mean) < row.null_95 < row.statistic


def test_norms_of_known_vectors():
    # A scale s with E s² = 1 gives var ‖z‖² / 2d = E s⁴ + d (E s⁴ − 1) / 2.
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4000, 30))
    row = dependence.norms(z, seed=0, **FEW).loc[0]
    assert row.statistic == pytest.approx(1, abs=0.1)
    assert row.null_mean == pytest.approx(1, abs=0.1)
    s = np.sqrt(rng.choice([0.5, 1.5], (4000, 1)))
    row = dependence.norms(z * s, seed=0, **FEW).loc[0]
    assert row.statistic == pytest.approx(1.25 + 30 * 0.125, rel=0.1)
    assert row.p == 0.05
    # Of independent, not Gaussian components the marginals explain all.
    row = dependence.norms(rng.laplace(size=(4000, 30)), seed=0, **FEW).loc[0]
    assert row.statistic > 1.5
    assert row.null_mean == pytest.approx(row.statistic, rel=0.1)


def test_classifier_against_gaussian_noise_and_its_interval():
    rng = np.random.default_rng(0)
    same = dependence.classifier(gaussian(1000, rng), against="gaussian", seed=0).loc[0]
    assert same.low < 0.5 < same.high
    assert same.p > 0.01
    # Independent, but not Gaussian: seen against N(0, I), not against permuted z.
    z = rng.exponential(size=(1000, 2)) - 1
    other = dependence.classifier(z, against="gaussian", seed=0).loc[0]
    assert 0.5 < other.low < other.statistic < other.high
    assert dependence.classifier(z, seed=0).loc[0].p > 0.01


def test_what_cannot_be_tested_is_said_in_one_line():
    z = np.random.default_rng(0).standard_normal((20, 4))
    for test in TESTS.values():
        with pytest.raises(ParameterError, match=r"column 1: 19 values.* at least 20"):
            test(z[:19], 0)
        with pytest.raises(ParameterError, match="column 1 is the only one"):
            test(z[:, :1], 0)
        faulty = z.copy()
        faulty[3, 2] = np.inf
        with pytest.raises(ParameterError, match="column 3 has values"):
            test(faulty, 0)
        faulty[:, 2] = 1
        with pytest.raises(ParameterError, match="column 3 is constant"):
            test(faulty, 0)
    faulty[:, 2] = np.tile([1, -1], 10)  # its square is constant
    with pytest.raises(ParameterError, match="column 3 is constant"):
        dependence.squares(faulty, seed=0)
