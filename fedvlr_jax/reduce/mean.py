"""Weighted sums whose weights are known before training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.uplink.uploads import Needs


def normalised_weights(weight: jax.Array, responded: jax.Array) -> jax.Array:
    """float32 [K]: the weights of the clients that responded, normalised to sum 1; others get 0.

    All weights are 0 if no client responded.
    """
    weight = jnp.where(responded, weight, 0.0)
    return weight / jnp.maximum(jnp.sum(weight), 1e-30)


def weighted_mean() -> Reduce:
    """The mean of the uploads, weighted by the clients' aggregation weights."""
    return Reduce(Needs.SUM, normalised_weights)


def of_whole_uploads(rule: Reduce) -> Reduce:
    """`rule` for a server that also reads the uploads one by one: it sums them after training."""
    if rule.combine is not None:
        return rule
    total = lambda uploads, alpha, responded: uploads.total(alpha)
    return rule._replace(needs=Needs.WHOLE, combine=total)


def fixed_point_mean() -> Reduce:
    """`weighted_mean` as a sum of integers: equal bits on 1, 2, 4 and 8 CPU devices."""
    return Reduce(Needs.SUM, normalised_weights, exact=True)


def fixed_denominator_mean(expected: float) -> Reduce:
    """The sum of the uploads divided by `expected`, for any number of responses.

    All clients have equal weight. If C bounds the norm of an upload, one client changes the result
    by at most C / expected. Central noise is calibrated to this sensitivity.

    Args:
      expected: the expected number of responses in a round.
    """
    return Reduce(Needs.SUM, lambda weight, responded: jnp.where(responded, 1.0 / expected, 0.0))
