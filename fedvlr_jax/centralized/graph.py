"""Normalised graphs, and propagation along their edges.

A graph is a list of edges; the cost of propagation is proportional to their number. A small graph
that is not very sparse becomes a dense matrix, which is several times faster.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.data.dataset import Interactions

# Upper bound on the bytes of one block of rows of a similarity matrix.
SIMILARITY_BYTES = 1 << 27
# On a CPU, one edge takes about as long as this many entries of a dense matrix.
ENTRIES_PER_EDGE = 128
LARGEST_MATRIX = 1 << 23


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Graph:
    """A sparse matrix [num_targets, num_sources] as edges; weights of repeated edges are summed.

    Attributes:
      target, source: int32 [E], the row and the column of each edge.
      weight: float32 [E].
      num_targets: the number of rows.
      ascending: True if `target` is sorted in ascending order, which makes sums faster.
    """

    target: jax.Array
    source: jax.Array
    weight: jax.Array
    num_targets: int = dataclasses.field(metadata={"static": True})
    ascending: bool = dataclasses.field(default=True, metadata={"static": True})


class Bipartite(NamedTuple):
    """The two off-diagonal blocks of a user-item adjacency matrix.

    Attributes:
      to_users: [N, I], a Graph or a dense matrix.
      to_items: [I, N], its transpose, in the same form.
    """

    to_users: Graph | jax.Array
    to_items: Graph | jax.Array


def propagate(graph: Graph | jax.Array, x: jax.Array) -> jax.Array:
    """The matrix product of the graph and x: [num_sources, w] -> [num_targets, w]."""
    if not isinstance(graph, Graph):
        return graph @ x
    messages = x[graph.source] * graph.weight[:, None]
    return jax.ops.segment_sum(
        messages, graph.target, graph.num_targets, indices_are_sorted=graph.ascending
    )


def symmetric_weights(
    user: jax.Array, item: jax.Array, num_users: int, num_items: int
) -> jax.Array:
    """float32 [E]: 1 / sqrt(d_u d_i), with the degrees in the graph of these edges."""
    one = jnp.ones(user.shape)
    degree_u = jax.ops.segment_sum(one, user, num_users)
    degree_i = jax.ops.segment_sum(one, item, num_items)
    return jax.lax.rsqrt(degree_u[user] * degree_i[item])


def matrix_of(graph: Graph, num_sources: int) -> jax.Array:
    """float32 [num_targets, num_sources]: the graph as a dense matrix."""
    empty = jnp.zeros((graph.num_targets, num_sources))
    return empty.at[graph.target, graph.source].add(graph.weight)


def in_cheaper_form(graph: Bipartite) -> Bipartite:
    """The same graph, as dense matrices if propagation is faster with them."""
    users, items = graph
    if not (isinstance(users, Graph) and isinstance(items, Graph)):
        return graph
    entries = users.num_targets * items.num_targets
    if entries > min(LARGEST_MATRIX, ENTRIES_PER_EDGE * len(users.weight)):
        return graph
    matrix = matrix_of(users, items.num_targets)
    return Bipartite(matrix, matrix.T)


def interaction_graph(train: Interactions) -> Bipartite:
    """D^-1/2 A D^-1/2 of the user-item graph, as edges, no self-loops (He et al. 2020, eq. 8)."""
    user, item = jnp.asarray(train.users), jnp.asarray(train.item)
    weight = symmetric_weights(user, item, train.num_users, train.num_items)
    by_item = np.argsort(train.item, kind="stable")
    return Bipartite(
        to_users=Graph(target=user, source=item, weight=weight, num_targets=train.num_users),
        to_items=Graph(
            target=item[by_item],
            source=user[by_item],
            weight=weight[by_item],
            num_targets=train.num_items,
        ),
    )


def light_gcn(
    graph: Bipartite, users: jax.Array, items: jax.Array, layers: int
) -> tuple[jax.Array, jax.Array]:
    """LightGCN (He et al. 2020, eqs. 3 and 4): the mean of layers 0 to `layers`.

    Args:
      users: [N, w].
      items: [I, w].

    Returns:
      (users [N, w], items [I, w]).
    """
    total_users, total_items = users, items
    for _ in range(layers):
        users, items = propagate(graph.to_users, items), propagate(graph.to_items, users)
        total_users, total_items = total_users + users, total_items + items
    return total_users / (layers + 1), total_items / (layers + 1)


def nearest_items(feature: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """The k items of highest cosine similarity to each item, including the item itself.

    Args:
      feature: float [I, F].
      neighbours: k, but at most I.

    Returns:
      (item int32 [I, k], ascending; similarity float32 [I, k]).
    """
    feature = np.asarray(feature, np.float32)
    norm = np.linalg.norm(feature, axis=1, keepdims=True)
    unit = feature / np.where(norm > 0, norm, 1)
    count, k = len(unit), min(neighbours, len(unit))
    rows = max(1, SIMILARITY_BYTES // (4 * count))
    found, similarity = np.empty((count, k), np.int32), np.empty((count, k), np.float32)
    for start in range(0, count, rows):
        block = unit[start : start + rows] @ unit.T
        # Items with equal features tie. Infinity ensures that an item is its own neighbour.
        inside = np.arange(len(block))
        block[inside, start + inside] = np.inf
        nearest = np.sort(np.argpartition(-block, k - 1, axis=1)[:, :k], axis=1)
        found[start : start + rows] = nearest
        block[inside, start + inside] = np.square(unit[start : start + rows]).sum(axis=1)
        similarity[start : start + rows] = np.take_along_axis(block, nearest, axis=1)
    return found, similarity


def similarity_graph(feature: np.ndarray, neighbours: int, *, weighted: bool) -> Graph:
    """The item-item graph of nearest neighbours: D^-1/2 S D^-1/2; D has the row sums of S.

    Args:
      feature: float [I, F].
      neighbours: see `nearest_items`.
      weighted: True: an edge of S has the cosine as weight, and 0 for a negative cosine. False: all
        edges have weight 1.
    """
    nearest, similarity = nearest_items(feature, neighbours)
    count, k = nearest.shape
    weight = np.maximum(similarity, 0) if weighted else np.ones_like(similarity)
    degree = weight.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return Graph(
        target=jnp.asarray(np.repeat(np.arange(count, dtype=np.int32), k)),
        source=jnp.asarray(nearest.reshape(-1)),
        weight=jnp.asarray((weight * scale[:, None] * scale[nearest]).reshape(-1), jnp.float32),
        num_targets=count,
    )
