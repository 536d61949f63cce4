"""The mini-batches of an epoch, drawn on the device; those of (user, positive, negative)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.data.cohorts import negative_pool
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.types import PyTree


class Batches(NamedTuple):
    """The mini-batches of an epoch.

    Attributes:
      rows: the number of rows of an epoch.
      size: the maximum number of rows of a mini-batch.
      arrays: what `draw` reads.
      draw: (key, arrays, int32 [B] rows) -> the mini-batch that the model's loss takes; pure.
    """

    rows: int
    size: int
    arrays: PyTree
    draw: Callable[[jax.Array, PyTree, jax.Array], Any]


class Batch(NamedTuple):
    """A mini-batch: users, an item of each user's train history, an item outside it; int32 [B]."""

    user: jax.Array
    positive: jax.Array
    negative: jax.Array


class Pairs(NamedTuple):
    """The train interactions, and the arrays from which negatives are sampled.

    Attributes:
      user, item: int32 [P], the pairs.
      start: int32 [N], the first index of each user's history in `gap`.
      length: int32 [N], the length of each user's history.
      free: int32 [N], the number of items of the pool outside each user's history.
      gap: int32 [E]. If a history has the indices h_0 < h_1 < ... of the pool, gap_k = h_k - k is
        the number of free indices below h_k. It does not decrease within a history.
      pool: int32 [S], the items that negatives are sampled from, ascending.
    """

    user: jax.Array
    item: jax.Array
    start: jax.Array
    length: jax.Array
    free: jax.Array
    gap: jax.Array
    pool: jax.Array


def make_pairs(train: Interactions, pool_name: str) -> Pairs:
    """The pairs of `train`, with negatives from the pool "seen" or "catalogue".

    Pairs of a user whose history covers the pool are left out, because they have no negative.

    Raises:
      InputError: no pair remains.
    """
    pool = negative_pool(train, pool_name)
    free = len(pool.item) - train.counts
    chosen = free[train.users] > 0
    if not chosen.any():
        raise InputError("every user has every item of the negative pool in train")
    place = np.asarray(pool.rank)[train.item]
    within = np.arange(len(train)) - train.indptr[:-1][train.users]
    int32 = lambda x: jnp.asarray(x, jnp.int32)
    return Pairs(
        user=int32(train.users[chosen]),
        item=int32(train.item[chosen]),
        start=int32(train.indptr[:-1]),
        length=int32(train.counts),
        free=int32(free),
        gap=int32(place - within),
        pool=pool.item,
    )


def draw_negatives(key: jax.Array, pairs: Pairs, user: jax.Array, longest: int) -> jax.Array:
    """int32 [B]: for each user, one uniform draw from the pool without the user's history.

    The draws are exact and need no rejection: the r-th free index is r + #{k: gap_k <= r}. One
    binary search in the user's slice of `gap` gives the count.

    Args:
      user: int32 [B].
      longest: static, the length of the longest history.
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
    """int32 [steps, size]: all pairs in random order, in mini-batches of equal size <= batch_size.

    `size` is the smallest size for this number of steps. At most steps - 1 pairs occur twice, to
    fill the last mini-batch.
    """
    steps = -(-num_pairs // batch_size)
    size = -(-num_pairs // steps)
    order = jax.random.permutation(key, num_pairs).astype(jnp.int32)
    return jnp.resize(order, (steps, size))


def draw_batch(key: jax.Array, pairs: Pairs, rows: jax.Array, longest: int) -> Batch:
    """The pairs with the indices `rows` (int32 [B]), each with a sampled negative."""
    user = pairs.user[rows]
    return Batch(user, pairs.item[rows], draw_negatives(key, pairs, user, longest))


def pair_batches(train: Interactions, pool_name: str, batch_size: int) -> Batches:
    """Every train interaction once, each with a sampled negative; see `make_pairs`."""
    pairs = make_pairs(train, pool_name)
    draw = functools.partial(draw_batch, longest=int(train.counts.max()))
    return Batches(len(pairs.user), batch_size, pairs, draw)
