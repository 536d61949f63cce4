"""Statistical uncertainty: bootstrap intervals and paired tests over users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLED_AT_ONCE = 1 << 18


def bootstrap_interval(
    values: np.ndarray, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [N] over users, without NaN users.

    (NaN, NaN) without any other user.
    """
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    # Resample in batches: resamples * N numbers need too much memory for a million users.
    at_once = max(1, RESAMPLED_AT_ONCE // len(values))
    means = []
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = generator.integers(0, len(values), (count, len(values)))
        means.extend(values[drawn].mean(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


class PairedTest(NamedTuple):
    """A compared with B over the same users.

    The Wilcoxon test assumes differences that are symmetric around zero. They are not symmetric if
    A is a mean over seeds and B a single run: the mean has fewer zeros and more small values. A
    method averaged over five seeds is significantly "better" than its own single run in one case
    of nine. `p_mean` tests the mean difference and is not affected.

    Attributes:
      mean_difference: mean of A minus mean of B.
      relative_difference: `mean_difference` over the mean of B; infinite if only the mean of B is
        zero, NaN if both means are.
      p_value: of the two-sided Wilcoxon signed-rank test.
      p_mean: of the two-sided paired t-test; of the exact test of random signs if all differences
        are equal, where t is infinite.
      users: the number of users in both.
      detectable: the mean difference that the t-test detects at level 5 % with power 80 %, for
        this number of users and this variance. NaN for fewer than two users. A result that is not
        significant does not exclude smaller differences.
    """

    mean_difference: float
    relative_difference: float
    p_value: float
    p_mean: float
    users: int
    detectable: float


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for multiple tests by Holm's step-down method (1979); keeps their order.

    Rejecting each hypothesis with an adjusted p-value below 0.05 makes the probability of any
    false rejection at most 5 %, for any dependence between the tests.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(value) for value in adjusted]


def _detectable(difference: np.ndarray) -> float:
    users = len(difference)
    if users < 2:
        return float("nan")
    from scipy import stats  # The import takes most of a second; only comparisons need it.

    quantiles = stats.t.ppf(0.975, users - 1) + stats.t.ppf(0.8, users - 1)
    return float(quantiles * difference.std(ddof=1) / np.sqrt(users))


def paired_test(a: np.ndarray, b: np.ndarray) -> PairedTest:
    """Two-sided Wilcoxon signed-rank test and paired t-test of A against B over users.

    The test omits users with NaN in either array. The signed-rank test drops zero differences, as
    Wilcoxon did. If all differences are zero, both p-values are 1.

    Args:
      a, b: float [N], one metric of each user. Average over seeds before the call.
    """
    from scipy import stats

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    # Equal means over seeds may differ in their last bits; without rounding they would get ranks.
    difference = np.round(a - b, 12)
    p_value = p_mean = 1.0
    if np.any(difference):
        p_value = float(stats.wilcoxon(difference).pvalue)
        if np.ptp(difference) > 0:
            p_mean = float(stats.ttest_1samp(difference, 0.0).pvalue)
        else:
            # Without a spread t is infinite for any number of users. This is the exact test: of
            # the 2^n equally likely choices of signs, two are as far from zero.
            p_mean = 2.0 ** (1 - len(difference))
    base = float(b.mean()) if len(b) else float("nan")
    mean = float(difference.mean()) if len(b) else float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = float(np.divide(mean, base))
    return PairedTest(mean, relative, p_value, p_mean, len(b), _detectable(difference))
