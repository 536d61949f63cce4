"""The epochs of the dense plan as rank-one terms, and their corrections of later epochs.

If a client trains its own copy of rows, each epoch reads the rows after the previous epoch. The
functions here add this correction, of rank A, to numbers computed from the broadcast views. See
`dense.py` for the symbols.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Factors(NamedTuple):
    """The rank-one terms of the A epochs; 0 for later epochs.

    Attributes:
      residual: r [A, K, I]. query: q [A, K, G * d]. pull: p [A, K, G * d].
      vector: theta [A, K, d], the direction in which tuned item rows move.
    """

    residual: jax.Array
    query: jax.Array
    pull: jax.Array
    vector: jax.Array


class Moving(NamedTuple):
    """The step sizes of the rows that a client trains; None if they do not change.

    Attributes:
      views: for its copy of the views, with upload=delta. items: for the item rows that it tunes.
    """

    views: jax.Array | None
    items: jax.Array | None


def no_factors(
    clients: int, epochs: int, views: tuple[int, ...], width: int, dtype: jnp.dtype
) -> Factors:
    """Zeros that `remember` fills, for views of shape [I, G * d]."""
    num_items, size = views
    zeros = lambda *last: jnp.zeros((epochs, clients, *last), dtype)
    return Factors(zeros(num_items), zeros(size), zeros(size), zeros(width))


def remember(factors: Factors, now: Factors, epoch: jax.Array) -> Factors:
    """`factors` with the terms of one epoch, `now`, which has no axis of epochs."""
    return Factors(*(stored.at[epoch].set(new) for stored, new in zip(factors, now, strict=True)))


def corrected_pooled(
    pooled: jax.Array, factors: Factors, positive: jax.Array, length: jax.Array, moving: Moving
) -> jax.Array:
    """The pooled histories [K, G * d] over the clients' own copies of the views."""
    if moving.views is None:
        return pooled
    inside = jnp.einsum("aki,ki->ak", factors.residual, positive) / length[None, :, 0]
    moved = jnp.einsum("ak,akg->kg", inside, factors.query)
    # The pull moves a row by its item's weight, and the mean multiplies by this weight again.
    twice = jnp.sum(jnp.square(positive), axis=1, keepdims=True) / length
    moved += twice * jnp.sum(factors.pull, axis=0)
    return pooled - moving.views * moved


def corrected_scores(
    scores: jax.Array,
    factors: Factors,
    positive: jax.Array,
    query: jax.Array,
    vector: jax.Array,
    moving: Moving,
) -> jax.Array:
    """The scores [K, I] by the clients' own copies of the views and item rows."""
    if moving.views is not None:
        along = jnp.einsum("akg,kg->ak", factors.query, query)
        scores -= moving.views * jnp.einsum("aki,ak->ki", factors.residual, along)
        scores -= moving.views * positive * jnp.einsum("akg,kg->k", factors.pull, query)[:, None]
    if moving.items is not None:
        along = jnp.einsum("akd,kd->ak", factors.vector, vector)
        scores -= moving.items * jnp.einsum("aki,ak->ki", factors.residual, along)
    return scores


def corrected_gradients(
    grad_query: jax.Array,
    factors: Factors,
    positive: jax.Array,
    residual: jax.Array,
    moving: Moving,
) -> tuple[jax.Array, jax.Array]:
    """The gradients by the query [K, G * d] and by the vector [K, d], at the clients' own copies of
    the rows."""
    grad_vector = jnp.zeros_like(factors.vector[0])
    if moving.views is None and moving.items is None:
        return grad_query, grad_vector
    overlap = jnp.einsum("ki,aki->ak", residual, factors.residual)
    if moving.views is not None:
        in_history = jnp.einsum("ki,ki->k", residual, positive)[:, None]
        moved = jnp.einsum("ak,akg->kg", overlap, factors.query)
        grad_query -= moving.views * (moved + in_history * jnp.sum(factors.pull, axis=0))
    if moving.items is not None:
        grad_vector -= moving.items * jnp.einsum("ak,akd->kd", overlap, factors.vector)
    return grad_query, grad_vector
