"""Ranks of held-out items among the whole catalogue, as counts that keep ties honest."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Ranks(NamedTuple):
    """Where the targets of some users stand, as JAX or NumPy arrays.

    Attributes:
      ahead: int32 [B, T], unmasked items that score strictly higher than the target.
      tied: int32 [B, T], other unmasked items that score exactly the same.
      finite: bool [B], whether all unmasked scores of the user are finite.
    """

    ahead: Any
    tied: Any
    finite: Any


def count_ahead(scores: jax.Array, targets: jax.Array, masked: jax.Array) -> Ranks:
    """Counts, for each target, the candidates ahead of it and tied with it.

    A user's other targets remain candidates. Memory is bounded by the score matrix,
    whatever the number of targets. Pure; may be jitted and mapped.

    Args:
      scores: float32 [B, I]. targets: int32 [B, T], padding -1 (its counts are 0).
      masked: bool [B, I], items that are no candidates.
    """
    finite = jnp.all(jnp.isfinite(scores) | masked, axis=1)
    # NaN is neither above nor equal to anything: a masked item counts nowhere.
    candidates = jnp.where(masked, jnp.nan, scores)

    def one_column(target: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = jnp.take_along_axis(scores, jnp.maximum(target, 0)[:, None], axis=1)
        ahead = jnp.sum(candidates > own, axis=1, dtype=jnp.int32)
        tied = jnp.sum(candidates == own, axis=1, dtype=jnp.int32)
        unmasked = ~jnp.take_along_axis(masked, jnp.maximum(target, 0)[:, None], axis=1)[:, 0]
        real = target >= 0
        return jnp.where(real, ahead, 0), jnp.where(real, tied - unmasked.astype(jnp.int32), 0)

    ahead, tied = jax.lax.map(one_column, targets.T)
    return Ranks(ahead.T, tied.T, finite)
