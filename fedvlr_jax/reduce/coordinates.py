"""Rules that combine each coordinate of the uploads separately (Yin et al. 2018).

The coordinates are those of the gradient of the views, before the pull-back through the operators.
A median does not commute with the linear pull-back, so a rule on the gradient of the ID table would
give other results. The rules ignore the clients' weights: all clients that responded count equally.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedvlr_jax.reduce.mean import normalised_weights
from fedvlr_jax.reduce.rule import Reduce
from fedvlr_jax.reduce.shares import share_of
from fedvlr_jax.uplink.uploads import Needs


def ordered(values: jax.Array, responded: jax.Array) -> jax.Array:
    """Sorts values [K, B] along the clients in ascending order.

    Clients that did not respond get infinity, so they are last.
    """
    return jnp.sort(jnp.where(responded[:, None], values, jnp.inf), axis=0)


def middle(values: jax.Array, responded: jax.Array) -> jax.Array:
    """[B]: the median over the clients of `responded`, for values [K, B]; 0 without any.

    Of an even number it is the mean of the two in the middle.
    """
    count = jnp.sum(responded)
    values = ordered(values, responded)
    low, high = jnp.maximum(count - 1, 0) // 2, count // 2
    return jnp.where(count > 0, (values[low] + values[high]) / 2, 0.0)


def _coordinatewise(combine: Callable[[jax.Array, jax.Array], jax.Array]) -> Reduce:
    """The rule that applies `combine` to each coordinate.

    Args:
      combine: (values [K, B], responded bool [K]) -> [B]; 0 if no client responded.
    """

    def of_cohort(uploads, alpha, responded):
        return uploads.coordinatewise(lambda values: combine(values, responded))

    return Reduce(Needs.WHOLE, normalised_weights, of_cohort)


def median() -> Reduce:
    """The coordinate-wise median; for an even number of values, the mean of the middle two."""
    return _coordinatewise(middle)


def trimmed_mean(byzantine_share: float) -> Reduce:
    """The coordinate-wise mean of n values without the floor(byzantine_share * n)
    lowest and highest."""

    def combine(values, responded):
        values, count = ordered(values, responded), jnp.sum(responded)
        trimmed = share_of(byzantine_share, count)
        place = jnp.arange(values.shape[0])[:, None]
        kept = (place >= trimmed) & (place < count - trimmed)
        total = jnp.sum(jnp.where(kept, values, 0.0), axis=0)
        return total / jnp.maximum(count - 2 * trimmed, 1).astype(values.dtype)

    return _coordinatewise(combine)
