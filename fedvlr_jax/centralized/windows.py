"""The last items of each user, side by side in rows of equal length.

Letters used in shapes: N users, E train interactions, R rows, L places of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.data.dataset import Interactions

# In place of a user or an item: none.
EMPTY = -1


class Histories(NamedTuple):
    """The items of all users in order of time; items of equal time in order of their number.

    Attributes:
      item: int32 [E].
      start, end: int32 [N], the part of each user in `item`.
    """

    item: jax.Array
    start: jax.Array
    end: jax.Array


class Rows(NamedTuple):
    """The last min(L, n) items of each user, n the length of the history, packed into rows.

    Short histories share a row, so few places are empty.

    Attributes:
      user: int32 [R, L], the user of each place, or EMPTY.
      age: int32 [R, L], the number of places from this one to the user's last one, inclusive.
    """

    user: jax.Array
    age: jax.Array


def histories_of(train: Interactions) -> Histories:
    """The histories of `train`."""
    int32 = lambda x: jnp.asarray(x, jnp.int32)
    item = train.item[train.oldest_first]
    return Histories(int32(item), int32(train.indptr[:-1]), int32(train.indptr[1:]))


def pack(counts: np.ndarray, length: int) -> Rows:
    """The rows of users with `counts` items, int [N], all positive; L = `length`."""
    sizes = np.minimum(counts, length)
    # The first place of each user, and the next one that is free. A row has users of similar size.
    first, free = np.zeros(len(sizes), int), 0
    for user in np.argsort(sizes, kind="stable"):
        if free % length + sizes[user] > length:
            free += -free % length
        first[user] = free
        free += sizes[user]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    places = np.full((2, free + -free % length), EMPTY, np.int32)
    places[:, first[owner] + within] = owner, sizes[owner] - within
    return Rows(*map(jnp.asarray, places.reshape(2, -1, length)))


def last_places(rows: Rows) -> jax.Array:
    """int32 [N]: the place of each user's last item, an index into R * L places."""
    user, age = np.asarray(rows.user).ravel(), np.asarray(rows.age).ravel()
    newest = np.flatnonzero(age == 1)
    return jnp.asarray(newest[np.argsort(user[newest])], jnp.int32)


def items_at(histories: Histories, rows: Rows, back: int = 0) -> jax.Array:
    """int32 [R, L]: the item of each place, or `back` items before it; EMPTY if there is none."""
    start, end = histories.start[rows.user], histories.end[rows.user]
    place = end - rows.age - back
    exists = (rows.user != EMPTY) & (place >= start)
    return jnp.where(exists, histories.item.at[place].get(mode="clip"), EMPTY)


def at_random_ends(key: jax.Array, histories: Histories, length: int) -> Histories:
    """Ends each history of n > `length` items at random, after `length` to n of its items."""
    spare = jnp.maximum(histories.end - histories.start - length, 0)
    drawn = jax.random.randint(key, spare.shape, 0, spare + 1)
    return histories._replace(end=histories.end - drawn)
