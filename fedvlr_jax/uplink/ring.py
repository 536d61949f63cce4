"""Uploads as whole numbers modulo 2^32.

A secure sum adds whole numbers in a ring, so each client rounds its upload to levels first. The
sum of the rounded uploads is exact in any order. An upload itself may differ in its last bits, and
so in its level, between numbers of devices: only `--aggregation=int32` also trains in equal groups.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.uplink.discrete_gaussian import discrete_gaussian
from fedvlr_jax.uplink.uploads import Upload, Uploads

# Levels up to here are exact in float32.
MOST_LEVELS = 2**23


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


def to_ring(ring: Ring, values: jax.Array) -> jax.Array:
    """int32: values in levels, clamped to the bound and rounded toward 0.

    Rounding toward 0 makes no upload longer.
    """
    scaled = jnp.clip(values * (ring.levels / ring.bound), -ring.levels, ring.levels)
    return jnp.trunc(scaled).astype(jnp.int32)


def from_ring(ring: Ring, total: jax.Array) -> jax.Array:
    """float32: the real value of levels, of one upload or of a sum."""
    return total.astype(float) * (ring.bound / ring.levels)


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
