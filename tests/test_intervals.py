import numpy as np
import pytest
from scipy import stats

from latent_scattering.intervals import interval, limits, spread_of

VALUES = np.array([1.0, 2.0, 4.0, 7.0])


def test_are_those_of_students_t():
    low, high = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    assert limits(VALUES) == pytest.approx([low, high])
    assert spread_of(VALUES) == pytest.approx((high - low) / 2)
    assert spread_of(list(VALUES)) == spread_of(VALUES)


def test_in_words_that_stay_on_a_line():
    assert interval(VALUES, 1) == "3.5\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}4.2"
    assert interval([-1e-3, -2e-3]).startswith("0.00")
