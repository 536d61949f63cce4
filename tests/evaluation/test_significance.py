"""Bootstrap intervals and paired tests: hand-computed values, and their error rates."""

import math

import numpy as np
import pytest

from fedvlr_jax.evaluation.significance import bootstrap_interval, holm, paired_test


def test_the_interval_of_equal_values_is_that_value():
    assert bootstrap_interval(np.full(7, 0.25)) == (0.25, 0.25)


def test_the_interval_is_the_same_every_time_and_other_seeds_differ():
    values = np.random.default_rng(0).random(40)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_users_without_a_value_are_left_out_of_the_interval():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    with_gaps = np.array([0.0, np.nan, 1.0, 1.0, np.nan, 0.0, 1.0])
    assert bootstrap_interval(with_gaps) == bootstrap_interval(values)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_without_a_value_there_is_no_interval(values):
    assert np.isnan(bootstrap_interval(np.array(values))).all()


def test_the_interval_has_the_width_of_the_normal_theory():
    values = np.repeat([0.0, 1.0], 200)
    low, high = bootstrap_interval(values, resamples=4000)
    # Standard error sqrt(0.5 * 0.5 / 400) = 0.025; 1.96 of them to each side of 0.5.
    assert low == pytest.approx(0.5 - 0.049, abs=0.004)
    assert high == pytest.approx(0.5 + 0.049, abs=0.004)


def test_a_lower_level_gives_a_narrower_interval_inside():
    values = np.random.default_rng(0).random(60)
    low, high = bootstrap_interval(values)
    inner_low, inner_high = bootstrap_interval(values, level=0.5)
    assert low < inner_low < values.mean() < inner_high < high


def test_95_percent_intervals_cover_the_true_mean_about_that_often():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.random(50), resamples=200)
        covered += low <= 0.5 <= high
    # Binomial(300, 0.95) has a standard deviation of 1.3 points. The percentile interval of 50
    # users covers one or two points less than its level.
    assert 0.90 <= covered / 300 <= 0.98


def test_paired_test_by_hand():
    b = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    a = b + np.array([0.01, 0.02, 0.03, 0.04, 0.05])
    result = paired_test(a, b)
    # All five differences are positive and of distinct size: p = 2 / 2^5.
    assert result.p_value == pytest.approx(0.0625)
    # The mean difference is 0.03 and the mean of B is 0.3.
    assert result.mean_difference == pytest.approx(0.03)
    assert result.relative_difference == pytest.approx(0.1)
    assert result.users == 5


def test_equal_users_say_nothing():
    rng = np.random.default_rng(0)
    values = rng.random(20)
    assert paired_test(values, values) == (0.0, 0.0, 1.0, 1.0, 20, 0.0)
    # The test drops zero differences, so p is unchanged; the mean is over twice as many users.
    a, b = rng.random(60), rng.random(60)
    alone, padded = paired_test(a, b), paired_test(np.append(a, b), np.append(b, b))
    assert padded.p_value == pytest.approx(alone.p_value)
    assert padded.mean_difference == pytest.approx(alone.mean_difference / 2)
    assert (alone.users, padded.users) == (60, 120)


def test_swapping_the_methods_keeps_p_and_turns_the_difference():
    rng = np.random.default_rng(0)
    a, b = rng.random(40), rng.random(40)
    forward, backward = paired_test(a, b), paired_test(b, a)
    assert forward.p_value == pytest.approx(backward.p_value)
    assert forward.mean_difference == pytest.approx(-backward.mean_difference)


def test_the_order_of_the_users_does_not_matter():
    rng = np.random.default_rng(0)
    a, b, order = rng.random(40), rng.random(40), rng.permutation(40)
    np.testing.assert_allclose(paired_test(a[order], b[order]), paired_test(a, b), rtol=1e-12)


def test_users_without_a_value_in_either_are_left_out_of_both():
    a = np.array([0.2, np.nan, 0.5, 0.9, 0.1])
    b = np.array([0.1, 0.4, np.nan, 0.6, 0.3])
    kept = [0, 3, 4]
    assert paired_test(a, b) == paired_test(a[kept], b[kept])


def test_the_relative_difference_where_the_base_is_zero():
    zeros = np.zeros(4)
    assert paired_test(np.full(4, 0.5), zeros).relative_difference == math.inf
    assert math.isnan(paired_test(zeros, zeros).relative_difference)


def test_without_users_nothing_is_known():
    result = paired_test(np.array([np.nan]), np.array([0.1]))
    assert math.isnan(result.mean_difference) and math.isnan(result.relative_difference)
    assert (result.p_value, result.p_mean, result.users) == (1.0, 1.0, 0)


def test_the_test_of_the_mean_by_hand():
    # Three values with mean 2 and standard deviation 1: t = 2 sqrt(3), two degrees of freedom.
    result = paired_test(np.array([1.0, 2.0, 3.0]), np.zeros(3))
    assert result.p_mean == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(14))
    # Equal differences have no spread: two of the 2^4 choices of signs are as far from zero.
    assert paired_test(np.full(4, 0.5), np.zeros(4)).p_mean == 2 / 16
    assert paired_test(np.full(2, 0.5), np.zeros(2)).p_mean == 0.5
    assert paired_test(np.full(30, 0.5), np.zeros(30)).p_mean < 1e-8
    assert paired_test(np.array([0.5]), np.array([0.1])).p_mean == 1


def test_bits_that_averaging_leaves_are_no_difference():
    values = np.random.default_rng(0).random(30)
    assert paired_test(np.mean([values] * 3, axis=0), values + 1e-16).p_value == 1


def test_a_mean_over_seeds_is_not_better_than_one_run_of_the_same_method():
    """Wilcoxon's test rejects far more often than its level; the test of the mean does not."""
    rng = np.random.default_rng(0)
    ranks, chance, wilcoxon, mean = np.arange(50), rng.random((200, 1)) * 0.3, 0, 0

    def run():
        hit = rng.random((200, 1)) < chance
        return (hit / np.log2(2 + rng.choice(ranks, (200, 1))))[:, 0]

    for _ in range(200):
        result = paired_test(np.mean([run() for _ in range(5)], axis=0), run())
        wilcoxon += result.p_value < 0.05
        mean += result.p_mean < 0.05
    assert mean <= 20 < wilcoxon


def test_no_difference_is_found_significant_about_five_times_in_a_hundred():
    rng = np.random.default_rng(0)
    found = sum(paired_test(*rng.normal(size=(2, 60))).p_value < 0.05 for _ in range(400))
    # Binomial(400, 0.05): 20 expected, standard deviation 4.4.
    assert 7 <= found <= 33


def test_a_shift_of_one_standard_deviation_is_found():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=60)
    assert paired_test(noise + rng.normal(1.0, 1.0, 60), noise).p_value < 1e-4


def test_holm_by_hand():
    # Sorted and scaled: .01 x 4, .02 x 3, .04 x 2, .5 x 1; then made non-decreasing, at most 1.
    assert holm([0.04, 0.01, 0.5, 0.02]) == pytest.approx([0.08, 0.04, 0.5, 0.06])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_detectable_difference_is_found_in_four_of_five_repetitions():
    rng = np.random.default_rng(0)
    found = paired_test(rng.normal(size=200), np.zeros(200))
    # (1.972 + 0.843) / sqrt(200), in standard deviations of the differences.
    assert found.detectable == pytest.approx(0.199, rel=0.1)
    samples = rng.normal(found.detectable, 1.0, (400, 200))
    seen = np.mean([paired_test(sample, np.zeros(200)).p_mean < 0.05 for sample in samples])
    assert seen == pytest.approx(0.8, abs=0.08)
