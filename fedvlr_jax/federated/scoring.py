"""What the clients of a chunk score, rank and are recommended, with their own private rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.data.cohorts import multi_hot
from fedvlr_jax.evaluation.ranking import Ranks, count_ahead
from fedvlr_jax.federated.local import Model
from fedvlr_jax.federated.precision import full_precision
from fedvlr_jax.types import Histories, PyTree

# Bytes that the score matrix and its companions of one chunk may take.
SCORE_BYTES = 1 << 28


def client_score_bytes(model: Model) -> int:
    """Estimate of what the scores of one client and their companions take."""
    return 24 * model.num_items * (1 if model.backbone.linear else 4 * model.width)


def clients_at_once(model: Model) -> int:
    """Clients scored at once."""
    return max(1, SCORE_BYTES // client_score_bytes(model))


def views_of(model: Model, shared: PyTree, features: PyTree) -> jax.Array:
    """float32 [I, G, d]: the views that `shared` makes of every item."""
    with full_precision():
        return model.fusion.views(shared["fusion"], shared["items"], features)


def make_scores(model: Model) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """(shared, views, private [K, ...], histories) -> scores [K, I], weights [K, G], seen [K, I].

    `weights` are the router's, `seen` marks the train items; their scores, which no ranking
    uses, do not leave an item out of its own history.
    """
    backbone, fusion, num_items = model.backbone, model.fusion, model.num_items

    def score_client(head: PyTree, private: PyTree, vectors: jax.Array) -> jax.Array:
        own = vectors + private["items"] if "items" in private else vectors
        return backbone.score(head, private["head"], own)

    def scores(shared: PyTree, views: jax.Array, private: PyTree, histories: Histories) -> Any:
        flat = views.reshape(num_items, -1)
        positive = multi_hot(histories, num_items)
        with full_precision():
            pooled = (positive @ flat) / jnp.maximum(histories.count, 1)[:, None]
            weights = jax.vmap(fusion.route)(private["router"], pooled)
            own = None
            if model.history_weight:
                by_view = pooled.reshape(*weights.shape, -1)
                own = model.history_weight * jnp.einsum("kg,kgd->kd", weights, by_view)
            if backbone.linear is None:
                vectors = jnp.einsum("kg,igd->kid", weights, views)
                result = jax.vmap(score_client, (None, 0, 0))(shared["head"], private, vectors)
                if own is not None:
                    result += jnp.einsum("kid,kd->ki", vectors, own)
            else:
                linear = lambda head: backbone.linear(shared["head"], head)
                vector, bias = jax.vmap(linear, axis_size=len(pooled))(private["head"])
                meets = vector if own is None else vector + own
                query = (weights[:, :, None] * meets[:, None, :]).reshape(len(pooled), -1)
                result = query @ flat.T + bias[:, None]
                if "items" in private:
                    result += jnp.einsum("kid,kd->ki", private["items"], vector)
        return result, weights, positive > 0

    return scores


def _hide(seen: jax.Array, histories: Histories, mask: jax.Array) -> jax.Array:
    """bool [K, I]: `seen` and the items of `mask` [K, V] (I where there is none)."""
    hidden = dataclasses.replace(histories, item=mask, weight=None)
    return seen | (multi_hot(hidden, seen.shape[1]) > 0)


def make_ranks(model: Model) -> Callable[..., tuple[Ranks, jax.Array]]:
    """(shared, views, private, histories, targets [K, T], mask [K, V]) -> (Ranks, weights)."""
    scores = make_scores(model)

    def ranks(shared, views, private, histories, targets, mask):
        score, weights, seen = scores(shared, views, private, histories)
        return count_ahead(score, targets, _hide(seen, histories, mask)), weights

    return ranks


def make_recommended(model: Model, k: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(shared, views, private, histories, mask [K, V]) -> the k best: (scores, items) [K, k]."""
    scores = make_scores(model)

    def recommended(shared, views, private, histories, mask):
        score, _, seen = scores(shared, views, private, histories)
        return jax.lax.top_k(jnp.where(_hide(seen, histories, mask), -jnp.inf, score), k)

    return recommended


def in_chunks(function: Callable, inputs: PyTree, chunk: int) -> PyTree:
    """`function` over leading-axis chunks of `inputs`, results joined."""
    size = jax.tree.leaves(inputs)[0].shape[0]
    if size <= chunk:
        return function(inputs)
    whole = size // chunk * chunk
    split = lambda leaf: leaf[:whole].reshape(-1, chunk, *leaf.shape[1:])
    results = jax.lax.map(function, jax.tree.map(split, inputs))
    results = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), results)
    if whole == size:
        return results
    rest = function(jax.tree.map(lambda leaf: leaf[whole:], inputs))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), results, rest)
