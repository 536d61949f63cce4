"""The losses of local training and their gradients by the scores; the penalty of an item row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.data.cohorts import NegativePool
from fedvlr_jax.federated.local import Task
from fedvlr_jax.fusion.operators import softmax
from fedvlr_jax.models import Penalty
from fedvlr_jax.registry import LOSSES, Factories
from fedvlr_jax.types import Array


class Loss(NamedTuple):
    """A loss of clients over their rows: functions of (scores, positive, negative), [..., M] each.

    `positive` and `negative` are the weights of each row with label 1 and label 0.

    Attributes:
      value: the sum over the rows [...].
      slope: its gradient by the scores [..., M].
    """

    value: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    slope: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def make_loss(task: Task) -> Loss:
    """The loss that --loss names."""
    make: Callable[[Task], Loss] = Factories(LOSSES)[task.config.federation.loss]
    return make(task)


def bce() -> Loss:
    """Binary cross-entropy of every row."""

    def value(scores, positive, negative):
        rows = positive * jax.nn.softplus(-scores) + negative * jax.nn.softplus(scores)
        return jnp.sum(rows, axis=-1)

    def slope(scores, positive, negative):
        return (positive + negative) * jax.nn.sigmoid(scores) - positive

    return Loss(value, slope)


def softmax_loss(pool: NegativePool) -> Loss:
    """Cross-entropy of each positive i, times its weight, among the history O and the pool,

        -s_i + log sum of exp(s_j) over j in O or pool.

    The pool's part of the sum is estimated from the negatives, each of which represents the same
    number of items; with expected negatives it is exact.
    """

    def parts_of(positive, negative):
        """(items of the sum that a row represents [..., M], number of positives [..., 1])."""
        count = jnp.sum(positive, axis=-1, keepdims=True)
        drawn = jnp.sum(negative, axis=-1, keepdims=True)
        per_negative = (pool.item.shape[0] - count) / jnp.where(drawn > 0, drawn, 1)
        items = (positive > 0).astype(positive.dtype) + per_negative * negative
        # A padding row has no positive; 1 keeps its sum finite.
        return jnp.where(count > 0, items, 1.0), count

    def value(scores, positive, negative):
        parts, count = parts_of(positive, negative)
        total = jax.nn.logsumexp(scores, axis=-1, b=parts)
        return count[..., 0] * total - jnp.sum(positive * scores, axis=-1)

    def slope(scores, positive, negative):
        parts, count = parts_of(positive, negative)
        return count * softmax(scores + jnp.log(parts)) - positive

    return Loss(value, slope)


def num_rows(count: Array, pool: NegativePool, num_negatives: int) -> jax.Array:
    """int32: rows of a client's loss, positives and negatives; at least 1."""
    has_negatives = count < pool.item.shape[0]
    return jnp.maximum(count * jnp.where(has_negatives, 1 + num_negatives, 1), 1)


def row_penalty(
    penalty: Penalty, weights: jax.Array, sizes: jax.Array, common: jax.Array, personal: jax.Array
) -> jax.Array:
    """[R]: the penalty for ONE client's common vectors [R, d] and its personal rows [R, d].

    Args:
      weights: of the client's router [G]. sizes: the mean |F_g| of each row's views [R, G].
    """
    distance = jnp.mean(jnp.square(personal - common), axis=-1)
    return penalty.l1 * (sizes @ weights) - penalty.repulsion * distance
