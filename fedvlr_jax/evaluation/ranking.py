"""Ranks of held-out items among the whole catalogue, as counts of better and of tied items."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.data.pairs import Pairs

# Number of scores that are compared with targets at once, and the bytes of one copy of them.
BLOCK_SCORES = 1 << 24
BLOCK_BYTES = 4 * BLOCK_SCORES


class Ranks(NamedTuple):
    """Ranks of the targets of some users, as JAX or NumPy arrays.

    Attributes:
      ahead: int32 [P], for each target the number of unmasked items with a higher score. For a
        whole part, targets are in the order of `Interactions.item`.
      tied: int32 [P], for each target the number of other unmasked items with an equal score.
      finite: bool [B], for each user whether all unmasked scores are finite.
    """

    ahead: Any
    tied: Any
    finite: Any


def count_ahead(scores: jax.Array, targets: Pairs, masked: jax.Array) -> Ranks:
    """Counts, for each target, the candidates with a higher score and with an equal score.

    A user's other targets remain candidates. Time is proportional to (B + targets) x I; padding
    after the last target adds none. Memory beyond the arguments is a copy of the scores and at
    most BLOCK_SCORES scores. The function is pure; `jax.jit` and `jax.vmap` may transform it.

    Args:
      scores: float32 [B, I].
      targets: int32 [Q]; padding has item I, and its counts are 0.
      masked: bool [B, I], items that are not candidates.
    """
    num_items, num_pairs = scores.shape[1], targets.item.shape[0]
    finite = jnp.all(jnp.isfinite(scores) | masked, axis=1)
    # Comparisons with NaN are false, so masked items are not counted.
    candidates = jnp.where(masked, jnp.nan, scores)
    size = min(num_pairs, max(1, BLOCK_SCORES // num_items))
    beyond = -num_pairs % size
    user = jnp.pad(targets.client, (0, beyond))
    item = jnp.pad(targets.item, (0, beyond), constant_values=num_items)
    real = item < num_items
    place = user, jnp.minimum(item, num_items - 1)
    own, itself = scores[place], (~masked[place]).astype(jnp.int32)

    def one_block(number: jax.Array, counts: tuple[jax.Array, jax.Array]) -> Any:
        cut = lambda x: jax.lax.dynamic_slice(x, (number * size,), (size,))
        found = _above_and_equal(candidates[cut(user)], cut(own))
        return tuple(
            jax.lax.dynamic_update_slice(count, part, (number * size,))
            for count, part in zip(counts, found, strict=True)
        )

    none = jnp.zeros(len(user), jnp.int32)
    last = jnp.max(jnp.where(real, jnp.arange(1, len(user) + 1), 0))
    ahead, tied = jax.lax.fori_loop(0, (last + size - 1) // size, one_block, (none, none))
    ahead, tied = jnp.where(real, ahead, 0), jnp.where(real, tied - itself, 0)
    return Ranks(ahead[:num_pairs], tied[:num_pairs], finite)


def _above_and_equal(scores: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int32 [B] each: the number of scores [B, I] above `own` [B], and equal to it.

    One reduction computes both counts, so XLA reads the scores once and makes no copy.
    """
    own = own[:, None]
    counts = (scores > own).astype(jnp.int32), (scores == own).astype(jnp.int32)
    zero = jnp.int32(0)
    add = lambda x, y: (x[0] + y[0], x[1] + y[1])
    above, equal = jax.lax.reduce(counts, (zero, zero), add, (1,))
    return above, equal
