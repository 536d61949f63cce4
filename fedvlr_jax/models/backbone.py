"""What a backbone is: where each leaf lives, and a score."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.types import PyTree


class Linear(NamedTuple):
    """A score <vector, item> + bias."""

    vector: jax.Array
    bias: jax.Array


class Embedding(NamedTuple):
    """A linear map of item vectors that a score begins with, apart from what follows it.

    The backbone's score of vectors v is score(shared, private, apply(shared, v)), plus
    <v, vector> + bias where a part of it is linear.

    Attributes:
      apply: (shared head, vectors [..., d]) -> [..., e], linear in the vectors.
      score: (shared head, private head, mapped vectors [R, e]) -> logits [R].
      linear: (shared head, private head) -> Linear; None where there is no such part.
    """

    apply: Callable[[PyTree, jax.Array], jax.Array]
    score: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    linear: Callable[[PyTree, PyTree], Linear] | None = None


class Penalty(NamedTuple):
    """What the loss of each row of an item has beside cross-entropy,

        sparse * sum_g w_g mean |F_g|  -  apart * mean (P - C)^2,

    P the client's private row, C = sum_g w_g F_g its common vector; means over the width.
    """

    apart: jax.Array
    sparse: jax.Array


class Backbone(NamedTuple):
    """Pure functions and facts of one backbone.

    Attributes:
      init_shared: (key, d) -> the shared head ({} where there is none).
      init_private: (key, d) -> ONE client's private head ({} where there is none).
      score: (shared head, private head, item vectors [R, d]) -> logits [R].
      linear: for a score that is linear in the item's vector: (shared head, private
        head) -> Linear, such that score = vectors @ vector + bias; else None.
      weight: aggregation weight of a client: "equal", or "history" for one
        proportional to its number of train items.
      item_rows: what a client keeps for every item, added to the item's vector:
        None; "tuned", changes it made to the rows in its last round, started anew from
        the broadcast in each; "personal", a table of its own kept over all rounds.
      penalty: None or, of a backbone with personal item rows, round [] -> Penalty.
      embedding: the linear map that `score`, or a part of it, begins with, where mapping the
        views once saves mapping every client's vectors; None where there is no such map, or
        private item rows come before it.
    """

    init_shared: Callable[[jax.Array, int], PyTree]
    init_private: Callable[[jax.Array, int], PyTree]
    score: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    linear: Callable[[PyTree, PyTree], Linear] | None
    weight: str
    item_rows: str | None = None
    penalty: Callable[[jax.Array], Penalty] | None = None
    embedding: Embedding | None = None


def no_head(key: jax.Array, width: int) -> PyTree:
    """For the side that holds no head."""
    return {}


def linear_head(key: jax.Array, width: int) -> PyTree:
    """{"vector": [d], "bias": []}, drawn as a dense layer's row would be."""
    return {"vector": jax.random.normal(key, (width,)) / jnp.sqrt(width), "bias": jnp.zeros(())}


def private_linear(shared: PyTree, private: PyTree) -> Linear:
    """Of a client whose private head is `linear_head`."""
    return Linear(private["vector"], private["bias"])


def linear_score(linear: Callable[[PyTree, PyTree], Linear]):
    """The score that belongs to a `linear` function."""

    def score(shared: PyTree, private: PyTree, vectors: jax.Array) -> jax.Array:
        vector, bias = linear(shared, private)
        return vectors @ vector + bias

    return score
