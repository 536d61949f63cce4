"""Sums by weights that are known before training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.uplink.uploads import Needs


def normalised_weights(weight: jax.Array, responded: jax.Array) -> jax.Array:
    """float32 [K]: alpha_u over the responded clients, summing to one (all 0 if none responds)."""
    weight = jnp.where(responded, weight, 0.0)
    return weight / jnp.maximum(jnp.sum(weight), 1e-30)


def weighted_mean() -> Reduce:
    """The mean of the uploads, each by its client's weight."""
    return Reduce(Needs.SUM, normalised_weights)


def fixed_point_mean() -> Reduce:
    """`weighted_mean`, summed as integers: the same to the bit on 1, 2, 4 and 8 devices."""
    return Reduce(Needs.SUM, normalised_weights, exact=True)


def fixed_denominator_mean(denominator: float) -> Reduce:
    """The sum of the uploads over `denominator`, whoever responds.

    Every client counts the same, so one client moves the result by at most its bound over
    `denominator`: the sensitivity that central noise needs.

    Args:
      denominator: how many clients a round expects.
    """
    return Reduce(Needs.SUM, lambda weight, responded: jnp.where(responded, 1.0 / denominator, 0.0))
