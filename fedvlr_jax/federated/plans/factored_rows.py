"""The personal item rows of the factored plan as a few factors; `factored.py` has the algebra.

The two kinds of rows are the client's history (0) and its negatives (1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.local import Task


class Factors(NamedTuple):
    """The personal rows of an epoch, and their part of the upload so far, for each kind.

    Attributes:
      table, views: A [2, K] and B [2, K, G] of the module's docstring.
      inner: sum over the kind's rows of <P_i, F_g,i> [2, K, G].
      table_count, view_count, sign_count: how often the upload to view g holds the client's P0
        [2, K, G], view h [2, K, G, G] and the signs of view g [2, K, G].
    """

    table: jax.Array
    views: jax.Array
    inner: jax.Array
    table_count: jax.Array
    view_count: jax.Array
    sign_count: jax.Array


class Pull(NamedTuple):
    """The weights of the penalty in an epoch, k and l of `factored.py` [2, K, 1], and
    `common`: as `Factors.inner`, of the common rows."""

    repulsion: jax.Array
    l1: jax.Array
    common: jax.Array


class Past(NamedTuple):
    """By epoch, E of them: r [K, E, I], theta [K, E, d], alpha w [K, E, G], and `Factors.table`
    [2, K, E] and `Factors.table_count` [2, K, E, G] as they are after it."""

    residual: jax.Array
    vector: jax.Array
    uploaded: jax.Array
    table: jax.Array
    table_count: jax.Array


class ViewCache(NamedTuple):
    """Functions of the views F [I, G, d] that all chunks of a round read.

    Attributes:
      in_pool: the rows of the pool, 0 elsewhere, in the layout of a table's rows [G, I * d].
      products: <F_h,i, F_g,i> [I, G, G]. size: |F_g,i| [I, G]. largest: of all |F_g| [G].
    """

    in_pool: jax.Array
    products: jax.Array
    size: jax.Array
    largest: jax.Array


class Rows(NamedTuple):
    """The rows of a chunk before the first epoch.

    Attributes:
      kinds: 1 where a row is of the kind [2, K, I], the history first.
      own: the personal rows of the history [K, I, d], 0 elsewhere.
      inner: sum over the kind's rows of <P0_i, F_g,i> [2, K, G].
      views_inner, size: the same of <F_h,i, F_g,i> [2, K, G, G] and of |F_g,i| [2, K, G].
    """

    kinds: jax.Array
    own: jax.Array
    inner: jax.Array
    views_inner: jax.Array
    size: jax.Array


class MovedItems(NamedTuple):
    """The factors by which a client's rows after a round follow from those before it: P of the
    docstring of `factored.py`.

    Attributes:
      kind: int8 [K, I], 1 where a row is of the history, 2 of the negatives, 0 of neither.
      table, views: A [K, 2] and B [K, 2, G] after the last epoch.
      residual, vector: r [K, E, I] and theta [K, E, d] by epoch.
    """

    kind: jax.Array
    table: jax.Array
    views: jax.Array
    residual: jax.Array
    vector: jax.Array


def factored_view_cache(task: Task, views: jax.Array) -> ViewCache:
    """`Broadcast.view_cache` of this plan."""
    in_pool = jnp.where(task.pool.member[:, None, None], views, 0.0)
    magnitudes = jnp.abs(views)
    return ViewCache(
        in_pool=jnp.swapaxes(in_pool, 0, 1).reshape(views.shape[1], -1),
        products=jnp.einsum("ihd,igd->ihg", views, views),
        size=jnp.sum(magnitudes, axis=2),
        largest=jnp.max(magnitudes, axis=(0, 2)),
    )


def make_rows(known: ViewCache, table: jax.Array, positive: jax.Array, negative: jax.Array) -> Rows:
    """The rows of clients with the personal `table` [K, I, d].

    The pool consists of the history and the negatives, so a sum over the negatives is the sum over
    the pool minus the sum over the history. Therefore only the history's rows are copied out of the
    table.
    """
    kinds = jnp.stack([positive, (negative > 0).astype(positive.dtype)])
    own = positive[..., None] * table
    meets_views = lambda rows: rows.reshape(len(rows), -1) @ known.in_pool.T
    inner, whole = meets_views(own), meets_views(table)
    return Rows(
        kinds=kinds,
        own=own,
        inner=jnp.stack([inner, whole - inner]),
        views_inner=jnp.tensordot(kinds, known.products, axes=1),
        size=kinds @ known.size,
    )


def first_factors(inner: jax.Array) -> Factors:
    """Before the first epoch, given `Factors.inner`."""
    none = jnp.zeros_like(inner)
    return Factors(
        table=jnp.ones(inner.shape[:2], inner.dtype),
        views=none,
        inner=inner,
        table_count=none,
        view_count=jnp.zeros((*inner.shape, inner.shape[2]), inner.dtype),
        sign_count=none,
    )


def move(
    factors: Factors,
    met: jax.Array,
    weights: jax.Array,
    uploaded: jax.Array,
    pull: Pull,
    rate: jax.Array,
) -> Factors:
    """The factors after one more epoch.

    Args:
      met: sum over the kind's rows of e_i <theta, F_g,i> [2, K, G].
      weights, uploaded: w and alpha w [K, G].
    """
    repulsion, l1, common = pull
    weights, uploaded = weights[None], uploaded[None]
    grow = 1 + rate * repulsion
    table = grow[..., 0] * factors.table
    taken = repulsion * factors.table[..., None]
    taken_views = taken * factors.views - repulsion * weights
    return Factors(
        table=table,
        views=factors.views - rate * repulsion * weights / table[..., None],
        inner=grow * factors.inner - rate * (met + repulsion * common),
        table_count=factors.table_count + uploaded * taken,
        view_count=factors.view_count + uploaded[..., None] * taken_views[..., None, :],
        sign_count=factors.sign_count + uploaded * l1,
    )


def penalties(
    rows: Rows,
    table: jax.Array,
    inner: jax.Array,
    weights: jax.Array,
    pull: Pull,
) -> jax.Array:
    """[2, K]: the penalty's part of the loss for the personal rows `table` [K, I, d].

    The other arguments are as in `Factors` and `move`.
    """
    repulsion, l1, common = pull
    weights = weights[None]
    distance = jnp.einsum("cki,ki->ck", rows.kinds, jnp.sum(jnp.square(table), axis=-1))
    distance += jnp.sum(weights * (common - 2 * inner), axis=2)
    return jnp.sum(l1 * weights * rows.size, axis=2) - repulsion[..., 0] / 2 * distance


def no_past(clients: int, epochs: int, views: tuple[int, ...], dtype: jnp.dtype) -> Past:
    """Zeros that `remember` fills, for views of shape [I, G, d]."""
    num_items, num_views, width = views
    zeros = lambda *shape: jnp.zeros(shape, dtype)
    return Past(
        residual=zeros(clients, epochs, num_items),
        vector=zeros(clients, epochs, width),
        uploaded=zeros(clients, epochs, num_views),
        table=zeros(2, clients, epochs),
        table_count=zeros(2, clients, epochs, num_views),
    )


def remember(past: Past, now: Past, epoch: jax.Array) -> Past:
    """`past` with the numbers of an epoch, `now`, which has no axis of epochs."""
    axes = 1, 1, 1, 2, 2
    put = lambda stored, new, axis: jax.lax.dynamic_update_index_in_dim(stored, new, epoch, axis)
    return Past(*(put(*leaf) for leaf in zip(past, now, axes, strict=True)))


def spread(kinds: jax.Array, numbers: jax.Array, outside: Any) -> jax.Array:
    """[K, I]: the number of each row's kind; `outside` for rows of neither kind.

    Args:
      kinds: as `Rows.kinds`. numbers: [2, K], or [2, K, I] with one number per row.
    """
    first, second = numbers[..., None] if numbers.ndim == 2 else numbers
    return jnp.where(kinds[0] > 0, first, jnp.where(kinds[1] > 0, second, outside))


def upload_of(
    views: jax.Array,
    pool: jax.Array,
    table: jax.Array,
    rows: Rows,
    factors: Factors,
    past: Past,
    rate: jax.Array,
) -> jax.Array:
    """The sum of the clients' uploads, their part through the rows: [I, G, d].

    Args:
      pool: bool [I], `NegativePool.member`.
    """
    num_items, num_views, width = views.shape
    # An epoch's residual is part of its upload, and of the personal rows of later epochs.
    later = factors.table_count[:, :, None] - past.table_count
    counts = past.uploaded[None] * past.table[..., None] - rate * later
    vectors = past.vector.reshape(-1, width)

    def outer(counts):
        first, second = counts[..., None]
        residual = past.residual * jnp.where(rows.kinds[0][:, None] > 0, first, second)
        return residual.reshape(-1, num_items).T @ vectors

    total = jnp.stack([outer(counts[..., g]) for g in range(num_views)], axis=1)

    at_rows = lambda numbers: jnp.tensordot(rows.kinds, numbers, axes=((0, 1), (0, 1)))
    view_count, sign_count = at_rows(factors.view_count), at_rows(factors.sign_count)
    for h in range(num_views):
        total += view_count[:, :, h, None] * views[:, h, None]
    total += sign_count[..., None] * jnp.sign(views)

    # As in `make_rows`: the whole pool at the negatives' count, and the difference at the history.
    counted = lambda counts, table: jnp.swapaxes(
        (counts.T @ table.reshape(len(table), -1)).reshape(num_views, num_items, width), 0, 1
    )
    first, second = factors.table_count
    total += jnp.where(pool[:, None, None], counted(second, table), 0.0)
    return total + counted(first - second, rows.own)


def moved_items(kinds: jax.Array, factors: Factors, past: Past) -> MovedItems:
    """`MovedItems` of clients whose rows are of the `kinds` [2, K, I]."""
    first, second = kinds
    clients_first = lambda factor: jnp.swapaxes(factor, 0, 1)
    return MovedItems(
        kind=(first + 2 * second).astype(jnp.int8),
        table=clients_first(factors.table),
        views=clients_first(factors.views),
        residual=past.residual,
        vector=past.vector,
    )


def trained_items(
    views: jax.Array, table: jax.Array, moved: MovedItems, rate: jax.Array
) -> jax.Array:
    """The personal rows after the epochs [K, I, d], from the rows before them."""
    items = table
    # Unrolled, so that one pass over the table adds all terms of a row.
    for a in range(moved.vector.shape[1]):
        items -= rate * moved.residual[:, a, :, None] * moved.vector[:, a, None]
    kinds = jnp.stack([moved.kind == 1, moved.kind == 2]).astype(moved.kind.dtype)
    for g in range(views.shape[1]):
        items += spread(kinds, moved.views[..., g].T, 0.0)[..., None] * views[None, :, g]
    return spread(kinds, moved.table.T, 1.0)[..., None] * items


def bound_of_items(known: ViewCache, moved: MovedItems, rate: jax.Array) -> jax.Array:
    """[K]: an upper bound on all entries of `trained_items`, if the loss is finite.

    The loss of the first epoch contains the squares of all rows that change: if it is finite in
    float32, no entry is above 2e19. The check therefore does not read the table.
    """
    largest = lambda leaf, *axes: jnp.max(jnp.abs(leaf), axis=axes)
    steps = rate * jnp.sum(largest(moved.residual, 2) * largest(moved.vector, 2), axis=1)
    pulled = jnp.max(jnp.abs(moved.views) @ known.largest, axis=1)
    return largest(moved.table, 1) * (2e19 + steps + pulled)
