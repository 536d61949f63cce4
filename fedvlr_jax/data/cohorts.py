"""Histories of different lengths as padded arrays, and their negatives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.types import Array, Histories

# Each bucket covers a factor of four in history length. Padded rows are then less than four times
# as long as the history, and few shapes are compiled.
BUCKET_FACTOR = 4
SHORTEST_BUCKET = 16


class NegativePool(NamedTuple):
    """The items that negatives are sampled from. Every history is inside the pool.

    Attributes:
      item: int32 [S], the items of the pool, ascending.
      rank: int32 [I], the index of each item in `item`; arbitrary outside the pool.
      member: bool [I], whether each item is in the pool.
    """

    item: jax.Array
    rank: jax.Array
    member: jax.Array


def negative_pool(train: Interactions, name: str) -> NegativePool:
    """The pool `name`: "catalogue", or "seen" for the items with a train interaction."""
    member = train.item_counts > 0 if name == "seen" else np.ones(train.num_items, bool)
    return NegativePool(
        item=jnp.asarray(np.flatnonzero(member), jnp.int32),
        rank=jnp.asarray(np.cumsum(member) - 1, jnp.int32),
        member=jnp.asarray(member),
    )


def bucket_clients(train: Interactions, *, by_length: bool) -> list[np.ndarray]:
    """Splits the clients into buckets of similar history length; one bucket if not by_length.

    Returns:
      int64 arrays of ascending user indices. The first bucket has the shortest histories; none is
      empty.
    """
    if not by_length:
        return [np.arange(train.num_users)]
    exponent = np.log(np.maximum(train.counts, 1) / SHORTEST_BUCKET) / np.log(BUCKET_FACTOR)
    bucket = np.maximum(np.ceil(exponent - 1e-9), 0).astype(int)
    return [np.flatnonzero(bucket == b) for b in np.unique(bucket)]


def pad_histories(
    train: Interactions, clients: np.ndarray, *, size: int = 0, length: int = 0
) -> Histories:
    """The train items of `clients`, padded to the longest history.

    Args:
      clients: int64 [K].
      size: the minimum number of rows; padding rows have client N and no items.
      length: the minimum padded length.
    """
    counts = train.counts[clients]
    length = max(length, int(counts.max(initial=1)))
    item = np.full((max(size, len(clients)), length), train.num_items, np.int32)
    entry = np.arange(length)[None, :] < counts[:, None]
    start = np.repeat(train.indptr[clients], counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    item[: len(clients)][entry] = train.item[start + within]
    weight = None
    if train.weight is not None:
        weight = np.zeros(item.shape, np.float32)
        weight[: len(clients)][entry] = train.weight[start + within]
    beyond = (0, len(item) - len(clients))
    return Histories(
        client=np.pad(clients, beyond, constant_values=train.num_users).astype(np.int32),
        item=item,
        count=np.pad(counts, beyond).astype(np.int32),
        weight=weight,
    )


def multi_hot(histories: Histories, num_items: int) -> jax.Array:
    """float32 [K, I]: the weight of each item in the client's history; 0 for other items."""
    row = jnp.arange(histories.item.shape[0])[:, None]
    empty = jnp.zeros((histories.item.shape[0], num_items))
    weight = 1.0 if histories.weight is None else histories.weight
    return empty.at[row, histories.item].set(weight, mode="drop")


def expected_negatives(
    positive: jax.Array, count: Array, pool: NegativePool, num_negatives: int
) -> jax.Array:
    """float32 [..., I]: the expected count of each item in num_negatives * count uniform draws.

    Args:
      positive: float32 [..., I], above 0 for the items of the history.
      count: int32 [...], the length of the history.
    """
    outside = jnp.maximum(pool.item.shape[0] - count, 1)
    rate = num_negatives * count / outside
    member = pool.member.reshape((1,) * (positive.ndim - 1) + (-1,))
    return jnp.where(member & (positive == 0), rate[..., None], 0.0)


def draw_negatives(
    key: jax.Array, item: Array, count: Array, pool: NegativePool, num_negatives: int
) -> jax.Array:
    """int32 [P * num_negatives]: uniform draws from the pool without ONE client's history.

    The draws are exact and need no rejection. If the history has the indices h_0 < h_1 < ... of
    the pool, h_k - k indices below h_k are free, so the r-th free index is r + #{k: h_k - k <= r}.
    Draws for padding are I. If the history covers the pool, all draws are I.

    Args:
      item: int32 [P], the history, ascending; padding is I.
      count: int32 [], the length of the history without padding.
    """
    num_items = pool.member.shape[0]
    slot = jnp.arange(item.shape[0])
    place = jnp.where(slot < count, pool.rank.at[item].get(mode="clip"), num_items + slot)
    free = pool.item.shape[0] - count
    # If the history covers the pool, no index is free; randint still needs a positive bound.
    drawn = jax.random.randint(
        key, (item.shape[0] * num_negatives,), 0, jnp.maximum(free, 1), jnp.int32
    )
    shift = jnp.searchsorted(place - slot, drawn, side="right")
    real = (jnp.arange(drawn.shape[0]) < count * num_negatives) & (free > 0)
    return jnp.where(real, pool.item.at[drawn + shift].get(mode="clip"), num_items)
