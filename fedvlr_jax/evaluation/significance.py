"""How sure a number is: intervals by bootstrap over users, paired tests over users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLED_AT_ONCE = 1 << 18


def bootstrap_interval(
    values: np.ndarray, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` [N] over users; NaN users are left out."""
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    generator = np.random.default_rng(seed)
    # In slices, so that a million users do not need resamples * N numbers at once.
    at_once = max(1, RESAMPLED_AT_ONCE // max(1, len(values)))
    means = []
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = generator.integers(0, len(values), (count, len(values)))
        means.extend(values[drawn].mean(axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


class PairedTest(NamedTuple):
    """Result of A against B over the same users; differences are of the means, A - B.

    The relative difference is that over the mean of B: infinite where only B's mean is
    zero, NaN where both are. `p_value` is Wilcoxon's, `p_mean` that of a paired t-test: that
    one is of the mean difference itself. Signed ranks ask whether the differences lie around
    zero evenly. They do not where one side is a mean over seeds and the other a single run,
    for the mean has few zeros among its users and many small values: against a single run of
    itself, a method averaged over five seeds is "better" by Wilcoxon in one case of nine.

    `detectable` is the mean difference that the t-test would have found significant at 5 % in 80 %
    of repetitions, with as many users and differences that vary as much; NaN below two users. "No
    difference" means: none as large as this.
    """

    mean_difference: float
    relative_difference: float
    p_value: float
    p_mean: float
    users: int
    detectable: float


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number by Holm's step-down method, in the same order.

    An adjusted value below 0.05 is significant with a probability of at most 5 % of any false one
    in the family, whatever the dependence of the tests.
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
    from scipy import stats  # Takes most of a second to load; only comparisons need it.

    quantiles = stats.t.ppf(0.975, users - 1) + stats.t.ppf(0.8, users - 1)
    return float(quantiles * difference.std(ddof=1) / np.sqrt(users))


def paired_test(a: np.ndarray, b: np.ndarray) -> PairedTest:
    """Two-sided Wilcoxon signed-rank and t-tests over users; average over seeds before calling.

    Users with NaN in either are left out. Zero differences are dropped from the signed ranks
    (Wilcoxon's own rule); if all are zero, both p are 1.
    """
    from scipy import stats

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    # Means over seeds that are equal may differ in their last bits, and would count as ranks.
    difference = np.round(a - b, 12)
    p_value = p_mean = 1.0
    if np.any(difference):
        p_value = float(stats.wilcoxon(difference).pvalue)
        if np.ptp(difference) > 0:
            p_mean = float(stats.ttest_1samp(difference, 0.0).pvalue)
        elif len(difference) > 1:
            p_mean = 0.0
    base = float(b.mean()) if len(b) else float("nan")
    mean = float(difference.mean()) if len(b) else float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = float(np.divide(mean, base))
    return PairedTest(mean, relative, p_value, p_mean, len(b), _detectable(difference))
