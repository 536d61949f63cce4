"""Scores, ranks and recommendations of a chunk of clients, with their own private rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.data.cohorts import multi_hot
from fedvlr_jax.data.pairs import Pairs
from fedvlr_jax.evaluation.ranking import Ranks, count_ahead
from fedvlr_jax.federated.matmul_precision import full_precision
from fedvlr_jax.federated.model import Model
from fedvlr_jax.types import Histories, PyTree

# Upper bound on the bytes of the score matrix of one chunk and the arrays of its size.
SCORE_BYTES = 1 << 28


def client_score_bytes(model: Model) -> int:
    """Estimate of the bytes of one client's scores and the arrays of their size."""
    return 24 * model.num_items * (1 if model.backbone.linear else 4 * model.width)


def clients_at_once(model: Model) -> int:
    """Clients scored at once."""
    return max(1, SCORE_BYTES // client_score_bytes(model))


def views_of(model: Model, shared: PyTree, features: PyTree) -> jax.Array:
    """float32 [I, G, d]: the views of every item by the operators in `shared`."""
    with full_precision():
        return model.fusion.views(shared["fusion"], shared["items"], features)


def make_scores(model: Model) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """(shared, views, private [K, ...], histories) -> scores [K, I], weights [K, G], seen [K, I].

    `weights` are the router's, `seen` marks the train items. For train items the history term
    includes the item itself; no ranking uses these scores.
    """
    backbone, fusion, num_items = model.backbone, model.fusion, model.num_items

    def score_client(head: PyTree, private: PyTree, vectors: jax.Array) -> jax.Array:
        own = vectors + private["items"] if "items" in private else vectors
        return backbone.score(head, private["head"], own)

    def scores(shared: PyTree, views: jax.Array, private: PyTree, histories: Histories) -> Any:
        flat_views = views.reshape(num_items, -1)
        positive = multi_hot(histories, num_items)
        with full_precision():
            length = jnp.maximum(histories.count, 1)[:, None].astype(flat_views.dtype)
            pooled = (positive @ flat_views) / length
            weights = jax.vmap(fusion.route)(private["router"], pooled)
            own = None
            if model.history_weight:
                pooled_views = pooled.reshape(*weights.shape, -1)
                own = model.history_weight * jnp.einsum("kg,kgd->kd", weights, pooled_views)
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
                result = query @ flat_views.T + bias[:, None]
                if "items" in private:
                    result += jnp.einsum("kid,kd->ki", private["items"], vector)
        return result, weights, positive > 0

    return scores


def _hide(seen: jax.Array, mask: Pairs) -> jax.Array:
    """bool [K, I]: `seen` and the pairs of `mask`."""
    return seen.at[mask.client, mask.item].set(True, mode="drop")


def make_ranks(model: Model) -> Callable[..., tuple[Ranks, jax.Array]]:
    """(shared, views, private, histories, targets, mask) -> (Ranks, weights [K, G]).

    `targets` and `mask` are the `Pairs` of the clients: the items to rank, and the items that are
    not candidates, in addition to the history.
    """
    scores = make_scores(model)

    def ranks(shared, views, private, histories, targets, mask):
        score, weights, seen = scores(shared, views, private, histories)
        return count_ahead(score, targets, _hide(seen, mask)), weights

    return ranks


def make_recommended(model: Model, k: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(shared, views, private, histories, mask) -> the k best: (scores, items) [K, k].

    `mask` is the `Pairs` of items that are not candidates, in addition to the history.
    """
    scores = make_scores(model)

    def recommended(shared, views, private, histories, mask):
        score, _, seen = scores(shared, views, private, histories)
        return jax.lax.top_k(jnp.where(_hide(seen, mask), -jnp.inf, score), k)

    return recommended


def chunk_bounds(size: int, chunk: int) -> np.ndarray:
    """int64 [C + 1]: the first rows of the chunks of `over_chunks`, and `size`."""
    return np.append(np.arange(0, size, chunk), size)


def over_chunks(function: Callable[..., Any], rows: PyTree, chunk: int, lists: PyTree) -> PyTree:
    """`function(rows, lists)` over leading-axis chunks of `rows`, its results joined.

    Args:
      rows: leaves [R, ...]; a chunk has `chunk` of them, the last one the remainder.
      lists: leaves [C, ...], one for each chunk, see `chunk_bounds`.

    Returns:
      Leaves [C * m, ...] of results [m, ...]; [R, ...] if a chunk has one result per row.
    """
    size = jax.tree.leaves(rows)[0].shape[0]
    if size <= chunk:
        return function(rows, trees.rows(lists, 0))
    number = size // chunk
    whole = number * chunk
    split = lambda leaf: leaf[:whole].reshape(number, chunk, *leaf.shape[1:])
    inputs = jax.tree.map(split, rows), trees.rows(lists, slice(number))
    results = jax.lax.map(lambda chunk_inputs: function(*chunk_inputs), inputs)
    results = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)
    if whole == size:
        return results
    rest = function(trees.rows(rows, slice(whole, None)), trees.rows(lists, number))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), results, rest)
