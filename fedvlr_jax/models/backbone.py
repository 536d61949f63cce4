"""The interface of a backbone: shared parameters, private parameters, and a score."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.types import PyTree


class Linear(NamedTuple):
    """A linear score <vector, item> + bias.

    Attributes:
      vector: float32 [d]. bias: float32 [].
    """

    vector: jax.Array
    bias: jax.Array


class Embedding(NamedTuple):
    """A score that first maps the item vectors linearly, split into the map and the rest.

    The score of item vectors v is score(shared, private, apply(shared, v)). If `linear` is given,
    <v, vector> + bias is added to it.

    Attributes:
      apply: (shared head, vectors [..., d]) -> [..., e], linear in the vectors.
      score: (shared head, private head, mapped vectors [R, e]) -> logits [R].
      linear: (shared head, private head) -> Linear, or None.
    """

    apply: Callable[[PyTree, jax.Array], jax.Array]
    score: Callable[[PyTree, PyTree, jax.Array], jax.Array]
    linear: Callable[[PyTree, PyTree], Linear] | None = None


class Penalty(NamedTuple):
    """Coefficients of the terms that the loss of an item row adds to cross-entropy:

        l1 * sum_g w_g mean |F_g|  -  repulsion * mean (P - C)^2.

    P is the client's private row, and C = sum_g w_g F_g is the item's common vector. The means are
    over the width d.

    Attributes:
      repulsion, l1: float32 [].
    """

    repulsion: jax.Array
    l1: jax.Array


class Backbone(NamedTuple):
    """Pure functions and properties of one backbone.

    Attributes:
      init_shared: (key, d) -> the shared head; {} for a backbone without one.
      init_private: (key, d) -> the private head of ONE client; {} for a backbone without one.
      score: (shared head, private head, item vectors [R, d]) -> logits [R].
      linear: (shared head, private head) -> Linear, for a score equal to
        vectors @ vector + bias; None for a score that is not linear in the item vector.
      weight: the aggregation weight of a client: "equal", or "history" for a weight proportional
        to its number of train items.
      item_rows: private rows of a client that are added to the item vectors. None: no rows.
        "tuned": the changes that local epochs made to the rows; they are reset at the start of
        each round. "personal": a table that the client keeps over all rounds.
      penalty: (round number []) -> Penalty, only for a backbone with personal item rows; or None.
      embedding: `score` split after its first linear map. The server then maps the views once,
        and clients need not map their vectors. None if the score does not start with a linear
        map, or if private item rows are added before it.
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
    """An empty head, for a backbone whose shared or private head has no parameters."""
    return {}


def linear_head(key: jax.Array, width: int) -> PyTree:
    """{"vector": float32 [d], "bias": float32 []}; the vector is normal with variance 1 / d."""
    return {"vector": jax.random.normal(key, (width,)) / jnp.sqrt(width), "bias": jnp.zeros(())}


def private_linear(shared: PyTree, private: PyTree) -> Linear:
    """The `Linear` of a client whose private head is a `linear_head`."""
    return Linear(private["vector"], private["bias"])


def linear_score(
    linear: Callable[[PyTree, PyTree], Linear],
) -> Callable[[PyTree, PyTree, jax.Array], jax.Array]:
    """The `Backbone.score` of a backbone with the given `Backbone.linear`."""

    def score(shared: PyTree, private: PyTree, vectors: jax.Array) -> jax.Array:
        vector, bias = linear(shared, private)
        return vectors @ vector + bias

    return score
