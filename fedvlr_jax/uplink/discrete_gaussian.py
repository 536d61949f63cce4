"""Draws of the discrete Gaussian distribution."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# The table of a noise sampler reaches so many standard deviations: 1e-32 of the mass is beyond.
REACH = 12
# Standard deviations of the noise, in levels, that the table and the accounting allow.
LEAST_DEVIATION, MOST_DEVIATION = 4.0, 4096.0


def discrete_gaussian(key: jax.Array, shape: tuple[int, ...], deviation: float) -> jax.Array:
    """int32 draws with P(k) proportional to exp(-k^2 / (2 deviation^2)), by the alias method.

    Each probability is right to 2^-32; no value is beyond REACH deviations.
    """
    table = _table(deviation)
    accept, other = (jnp.asarray(part) for part in table)
    bits = jax.random.bits(key, (2, *shape), jnp.uint32)
    place = (bits[0] & np.uint32(len(table.accept) - 1)).astype(jnp.int32)
    place = jnp.where(bits[1] <= accept[place], place, other[place])
    return place - np.int32(len(table.accept) // 2)


class _Table(NamedTuple):
    accept: np.ndarray
    other: np.ndarray


@functools.lru_cache(maxsize=8)
def _table(deviation: float) -> _Table:
    """Walker's alias table over the whole numbers from -size / 2 to size / 2 - 1."""
    size = 1 << math.ceil(math.log2(2 * REACH * deviation + 2))
    value = np.arange(size) - size // 2
    mass = np.exp(-0.5 * np.square(value / deviation))
    share = mass / mass.sum() * size
    other = np.arange(size, dtype=np.int32)
    small = [int(i) for i in np.flatnonzero(share < 1)]
    large = [int(i) for i in np.flatnonzero(share >= 1)]
    accept = np.ones(size)
    while small and large:
        low, high = small.pop(), large.pop()
        accept[low], other[low] = share[low], high
        share[high] -= 1 - share[low]
        (small if share[high] < 1 else large).append(high)
    # The remaining places have themselves as `other`, so their threshold does not matter.
    return _Table(np.minimum(accept * 2.0**32, 2.0**32 - 1).astype(np.uint32), other)
