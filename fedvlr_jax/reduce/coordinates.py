"""Rules that combine each coordinate of the uploads separately (Yin et al. 2018).

The coordinates are those of the gradient of the views, before the pull-back through the operators.
A median does not commute with the linear pull-back, so a rule on the gradient of the ID table would
give other results. The rules ignore the clients' weights: all clients that responded count equally.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedvlr_jax.reduce import order
from fedvlr_jax.reduce.mean import normalised_weights
from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.reduce.shares import share_of
from fedvlr_jax.uplink.uploads import Needs


def _coordinatewise(combine: Callable[[jax.Array, jax.Array], jax.Array]) -> Reduce:
    """The rule that applies `combine` to each coordinate.

    Args:
      combine: (values [K, B], responded bool [K, 1]) -> [B]; 0 if no client responded.
    """

    def of_cohort(uploads, alpha, responded):
        return uploads.coordinatewise(lambda values: combine(values, responded[:, None]))

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)


def median() -> Reduce:
    """The coordinate-wise median; for an even number of values, the mean of the middle two."""
    return _coordinatewise(order.median)


def trimmed_mean(byzantine_share: float) -> Reduce:
    """The coordinate-wise mean of n values without the floor(byzantine_share * n)
    lowest and highest."""

    def combine(values, responded):
        count = jnp.sum(responded)
        trimmed = share_of(byzantine_share, count)
        return order.mean_between(values, responded, trimmed, count - trimmed)

    return _coordinatewise(combine)
