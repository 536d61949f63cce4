"""The discrete Gaussian distribution: its table, and its draws."""

import jax
import numpy as np
import pytest
from scipy import stats

from fedvlr_jax.uplink.discrete_gaussian import REACH, _table, discrete_gaussian


def law(values, deviation):
    mass = np.exp(-np.square(values.astype(float)) / (2 * deviation**2))
    # Beyond 40 deviations a float64 has nothing left to add.
    everything = np.arange(-int(40 * deviation), int(40 * deviation) + 1)
    return mass / np.exp(-np.square(everything.astype(float)) / (2 * deviation**2)).sum()


@pytest.mark.parametrize("deviation", [4.0, 16 / 3, 30.0, 900.0])
def test_the_table_holds_each_probability_to_2_to_the_minus_32(deviation):
    table = _table(deviation)
    size = len(table.accept)
    assert size & (size - 1) == 0 and size // 2 - 1 >= REACH * deviation
    # A place is drawn, and accepted for accept + 1 of the 2^32 values of the other word.
    accepted = (table.accept.astype(float) + 1) / 2**32
    share = accepted + np.bincount(table.other, 1 - accepted, size)
    expected = law(np.arange(size) - size // 2, deviation)
    np.testing.assert_allclose(share / size, expected, rtol=0, atol=2.0**-32)


def test_draws_have_the_law_of_the_table():
    deviation, count = 5.0, 100_000
    draws = np.asarray(discrete_gaussian(jax.random.key(0), (count // 4, 4), deviation))
    assert draws.shape == (count // 4, 4) and draws.dtype == np.int32
    values = np.arange(-15, 16)
    found = np.bincount(np.clip(draws.ravel(), -16, 16) + 16, minlength=33)
    inside = law(values, deviation)
    outside = (1 - inside.sum()) / 2
    expected = count * np.concatenate([[outside], inside, [outside]])
    assert stats.chisquare(found, expected).pvalue > 1e-6
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 5 / np.sqrt(count / 4)
