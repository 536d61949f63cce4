"""Uploads as whole numbers modulo 2^32, and discrete noise on them.

A secure sum adds whole numbers in a ring, so each client rounds its upload to levels first. The
sum of the rounded uploads is exact in any order. An upload itself may differ in its last bits, and
so in its level, between numbers of devices: only `--aggregation=int32` also trains in equal groups.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.uplink.uploads import Upload, Uploads

# Levels up to here are exact in float32.
MOST_LEVELS = 2**23
# The table of a noise sampler reaches so many standard deviations: 1e-32 of the mass is beyond.
REACH = 12
# Standard deviations of the noise, in levels, that the table and the accounting allow.
LEAST_DEVIATION, MOST_DEVIATION = 4.0, 4096.0


class Ring(NamedTuple):
    """How an upload is rounded.

    Attributes:
      bound: the largest size of one coordinate; larger ones are clamped.
      levels: whole number that stands for `bound`, at most MOST_LEVELS.
      deviation: of the discrete Gaussian noise that each client adds, in levels; 0 for none.
    """

    bound: float
    levels: int
    deviation: float = 0.0


def least_answers(threshold: float, sampled: Any) -> Any:
    """The number of `sampled` clients, an int or an int32 array, that must respond to a secure sum.

    The threshold is rounded up to thousandths, so that the comparison is one of integers.
    """
    thousandths = math.ceil(1000 * threshold - 1e-6)
    return thousandths * (sampled // 1000) + (thousandths * (sampled % 1000) + 999) // 1000


def to_ring(ring: Ring, values: jax.Array) -> jax.Array:
    """int32: values in levels, clamped to the bound and rounded toward 0.

    Rounding toward 0 makes no upload longer.
    """
    scaled = jnp.clip(values * (ring.levels / ring.bound), -ring.levels, ring.levels)
    return jnp.trunc(scaled).astype(jnp.int32)


def ring_sum(
    ring: Ring, uploads: Uploads, alpha: jax.Array, client: jax.Array, key: jax.Array
) -> tuple[Upload, jax.Array]:
    """The sum of the rounded, noisy uploads modulo 2^32.

    Args:
      alpha: [K], the factor of each upload; clients with 0 are left out.
      client: int32 [K], whose upload it is. key: of the round.

    Returns:
      The sum as int32 arrays, and bool [K]: whether a coordinate was clamped.
    """
    counts = alpha != 0
    # A product of float32 numbers may exceed the bound by its last bit; that is no clamping.
    most = ring.bound * (1 + 1e-6)

    def step(clamped: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        per_client = lambda of: of.reshape(-1, *[1] * (rows.ndim - 1))
        rows = jnp.where(per_client(counts), per_client(alpha) * rows, jnp.zeros((), rows.dtype))
        over = jnp.any(jnp.abs(rows) > most, axis=tuple(range(1, rows.ndim)))
        return clamped | over, jnp.sum(to_ring(ring, rows), axis=0, dtype=jnp.int32)

    clamped, total = uploads.fold_rows(step, jnp.zeros(counts.shape, bool))
    if ring.deviation:
        total = _with_noise(ring.deviation, total, counts, client, key)
    return total, clamped


def _with_noise(
    deviation: float, total: Upload, counts: jax.Array, client: jax.Array, key: jax.Array
) -> Upload:
    """`total` plus the noise of each client that counts, one client at a time."""

    def add(total: Upload, of: tuple[jax.Array, jax.Array]) -> tuple[Upload, None]:
        counted, who = of
        noisy = lambda: jax.tree.map(jnp.add, total, client_draws(deviation, key, who, total))
        return jax.lax.cond(counted, noisy, lambda: total), None

    return jax.lax.scan(add, total, (counts, client))[0]


def client_draws(deviation: float, key: jax.Array, client: jax.Array, like: Upload) -> Upload:
    """The noise of one client in one round, int32 in the shapes of `like`.

    Args:
      key: of the round. The draws depend on it and on `client` alone.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.fold_in(key, client), len(leaves))
    draws = [discrete_gaussian(k, x.shape, deviation) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, draws)


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
