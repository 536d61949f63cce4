"""The number of clients that a share of them stands for."""

from __future__ import annotations

from fractions import Fraction

import jax
import jax.numpy as jnp

MOST_PARTS = 10_000


def share_of(share: float, count: jax.Array) -> jax.Array:
    """int32 []: floor(share * count), exact for a share with up to four decimals.

    In float32 0.13 * 900 is below 117. Here a share is a fraction of whole numbers.
    """
    part = Fraction(share).limit_denominator(MOST_PARTS)
    whole, rest = count // part.denominator, count % part.denominator
    found = whole * part.numerator + rest * part.numerator // part.denominator
    return found.astype(jnp.int32)
