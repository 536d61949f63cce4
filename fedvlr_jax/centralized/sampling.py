"""Mini-batches of (user, positive, negative), drawn on the device."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.centralized.model import Batch
from fedvlr_jax.data.cohorts import negative_pool
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.errors import InputError


class Pairs(NamedTuple):
    """The train interactions to learn from, and what tells their negatives.

    Attributes:
      user, item: int32 [P], the pairs.
      start: int32 [N], where each user's history starts in `gap`; length: int32 [N], its
        size; free: int32 [N], how many items of the pool are outside it.
      gap: int32 [E]. With a history at places h_0 < h_1 < ... of the pool, gap_k = h_k - k
        counts the free places below h_k; it never falls within a history.
      pool: int32 [S], the items that negatives are taken from, ascending.
    """

    user: jax.Array
    item: jax.Array
    start: jax.Array
    length: jax.Array
    free: jax.Array
    gap: jax.Array
    pool: jax.Array


def make_pairs(train: Interactions, pool_name: str) -> Pairs:
    """The pairs of `train`, with negatives of the pool "seen" or "catalogue".

    A user whose history covers the pool has no negative; its pairs are left out.

    Raises:
      InputError: no pair is left.
    """
    pool = negative_pool(train, pool_name)
    free = len(pool.item) - train.counts
    chosen = free[train.users] > 0
    if not chosen.any():
        raise InputError("every user has every item of the negative pool in train")
    place = np.asarray(pool.rank)[train.item]
    within = np.arange(len(train)) - train.indptr[:-1][train.users]
    whole = lambda x: jnp.asarray(x, jnp.int32)
    return Pairs(
        user=whole(train.users[chosen]),
        item=whole(train.item[chosen]),
        start=whole(train.indptr[:-1]),
        length=whole(train.counts),
        free=whole(free),
        gap=whole(place - within),
        pool=pool.item,
    )


def draw_negatives(key: jax.Array, pairs: Pairs, user: jax.Array, longest: int) -> jax.Array:
    """int32 [B]: one uniform draw for each user from the pool outside its history.

    Exact and without rejection: the r-th free place is r + #{k: gap_k <= r}, and the count
    is one binary search in the user's own slice.

    Args:
      user: int32 [B]. longest: static, the length of the longest history.
    """
    drawn = jax.random.randint(key, user.shape, 0, pairs.free[user], jnp.int32)
    low, high = jnp.zeros_like(user), pairs.length[user]
    for _ in range(int(longest).bit_length()):
        middle = (low + high) // 2
        gap = pairs.gap.at[pairs.start[user] + middle].get(mode="clip")
        below = (gap <= drawn) & (low < high)
        low, high = jnp.where(below, middle + 1, low), jnp.where(below, high, middle)
    return pairs.pool[drawn + low]


def epoch_order(key: jax.Array, num_pairs: int, batch_size: int) -> jax.Array:
    """int32 [steps, size]: every pair once, in mini-batches of one size, at most `batch_size`.

    The sizes are evened out, so that at most steps - 1 pairs are taken twice to fill the
    last mini-batch, and no step sees a fraction of the rows of the others.
    """
    steps = -(-num_pairs // batch_size)
    size = -(-num_pairs // steps)
    order = jax.random.permutation(key, num_pairs).astype(jnp.int32)
    return jnp.resize(order, (steps, size))


def draw_batch(key: jax.Array, pairs: Pairs, rows: jax.Array, longest: int) -> Batch:
    """The pairs at `rows` (int32 [B]), each with a negative."""
    user = pairs.user[rows]
    return Batch(user, pairs.item[rows], draw_negatives(key, pairs, user, longest))
