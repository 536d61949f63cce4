"""The rules by name, one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fedvlr_jax.reduce.coordinates import median, trimmed_mean
from fedvlr_jax.reduce.gram import geometric_median, multi_krum
from fedvlr_jax.reduce.mean import fixed_denominator_mean, fixed_point_mean, weighted_mean
from fedvlr_jax.reduce.robust import bulyan, norm_bound, row_median
from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.reduce.secure import secure_mean
from fedvlr_jax.uplink.ring import MOST_LEVELS, Ring


class RuleOptions(NamedTuple):
    """The options of a rule, from the configuration.

    Attributes:
      expected: the expected number of responses in a round.
      byzantine_share: the fraction of clients that may be hostile.
      ring: how a secure sum rounds uploads.
    """

    expected: float
    byzantine_share: float
    ring: Ring = Ring(bound=1.0, levels=MOST_LEVELS)


REDUCTIONS: dict[str, Callable[[RuleOptions], Reduce]] = {
    "float32": lambda options: weighted_mean(),
    "int32": lambda options: fixed_point_mean(),
    "fixed_mean": lambda options: fixed_denominator_mean(options.expected),
    "secure": lambda options: secure_mean(options.ring),
    "median": lambda options: median(),
    "trimmed_mean": lambda options: trimmed_mean(options.byzantine_share),
    "krum": lambda options: multi_krum(options.byzantine_share, None),
    "multi_krum": lambda options: multi_krum(options.byzantine_share, 1.0),
    "geometric_median": lambda options: geometric_median(),
    "norm_bound": lambda options: norm_bound(),
    "bulyan": lambda options: bulyan(options.byzantine_share),
    "row_median": lambda options: row_median(options.byzantine_share),
}
