"""Synthetic data whose items are in clusters of each source.

Three independent partitions assign every item to one cluster of each source: id, text and image.
The features of an item show its text and image cluster; only the interactions show its id cluster.
A user prefers two clusters of each source and has weights over the sources. Each draw picks a
source by the user's weights, then a preferred cluster of that source, then an item of the cluster
by popularity. Repeated items are dropped. The history of a user with all weight on image is
therefore predictable only from image features.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.synthetic_parts import (
    FEWEST_ITEMS_A_USER,
    SOURCES,
    concatenate,
    history_lengths,
    normals,
    projected_unit_rows,
    split_first_distinct,
    uniforms,
)

_POPULARITY_EXPONENT = 0.7
FAVOURITE = 0.7  # Probability of the first of the two preferred clusters.
BACKGROUND = 0.05  # Probability of a draw by popularity only.
_CENTRE_WIDTH = 16  # Dimension of the space of the cluster centres of a feature.
_NOISE = 0.5  # Standard deviation of items around their centre; centres have 1.
_SLOTS_A_CHUNK = 1 << 21  # Bounds memory only; the data do not depend on it.

_CLUSTERS, _SLOTS, _POPULARITY, _PARTITION, _FEATURE = range(20, 70, 10)


class Catalogue:
    """Popularity of the items, and their cluster in each source.

    Attributes:
      items: the number of items.
      popularity: float64 [items].
      num_clusters: the number of clusters of each source.
      order: for each source int64 [items], the items sorted by cluster.
      bounds: for each source int64 [clusters + 1]; cluster c is order[bounds[c]:bounds[c + 1]].
      cumulative: for each source float64 [items + 1], the cumulative popularity in that order. One
        binary search in it draws an item of a cluster.
    """

    def __init__(self, seed: int, items: int) -> None:
        rank = np.argsort(uniforms(seed, _POPULARITY, 0, items), kind="stable") + 1.0
        self.items = items
        self.popularity = rank**-_POPULARITY_EXPONENT
        # Different numbers, so that tests detect exchanged sources.
        root = math.sqrt(items)
        self.num_clusters = (int(root), int(0.8 * root), int(1.2 * root))
        self.order: list[np.ndarray] = []
        self.bounds: list[np.ndarray] = []
        self.cumulative: list[np.ndarray] = []
        for source, clusters in enumerate(self.num_clusters):
            order = np.argsort(uniforms(seed, _PARTITION + source, 0, items), kind="stable")
            self.order.append(order)
            self.bounds.append(np.arange(clusters + 1) * items // clusters)
            self.cumulative.append(np.concatenate([[0.0], np.cumsum(self.popularity[order])]))

    def cluster_of(self, source_name: str) -> np.ndarray:
        """int64 [items]: the cluster of every item in one source."""
        source = SOURCES.index(source_name)
        cluster = np.empty(self.items, np.int64)
        cluster[self.order[source]] = np.repeat(
            np.arange(self.num_clusters[source]), np.diff(self.bounds[source])
        )
        return cluster

    def pick(self, source: int, first: np.ndarray, last: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draws items of the clusters first to last of a source by popularity (inverse CDF).

        Args:
          first, last: int64 [n], the range of clusters of each draw, inclusive.
          u: float64 [n], uniforms in [0, 1).
        """
        bounds, cumulative = self.bounds[source], self.cumulative[source]
        begin, end = bounds[first], bounds[last + 1]
        below, above = cumulative[begin], cumulative[end]
        place = np.searchsorted(cumulative, below + u * (above - below), side="right") - 1
        return self.order[source][np.clip(place, begin, end - 1)]


def features(seed: int, source: int, cluster: np.ndarray, width: int) -> np.ndarray:
    """float32 [items, width]: (cluster centre + noise), projected, rows of unit norm."""
    stream = _FEATURE + 3 * source
    clusters, items = int(cluster.max()) + 1, len(cluster)
    centre = normals(seed, stream, clusters * _CENTRE_WIDTH).reshape(clusters, _CENTRE_WIDTH)
    noise = normals(seed, stream + 1, items * _CENTRE_WIDTH).reshape(items, _CENTRE_WIDTH)
    projection = normals(seed, stream + 2, _CENTRE_WIDTH * width).reshape(_CENTRE_WIDTH, width)
    return projected_unit_rows(centre[cluster] + _NOISE * noise, projection)


def interactions(
    seed: int, catalogue: Catalogue, planted: np.ndarray, mean_history: float
) -> list[Interactions]:
    """Train, valid and test, drawn for one chunk of users after the other."""
    wanted = history_lengths(seed, len(planted), catalogue.items, mean_history)
    slots = 2 * wanted + 8 + FEWEST_ITEMS_A_USER
    first_slot = np.concatenate([[0], np.cumsum(slots)])
    chunk_of = first_slot[:-1] // _SLOTS_A_CHUNK
    edges = [0, *(np.flatnonzero(np.diff(chunk_of)) + 1).tolist(), len(planted)]
    chunks = []
    for begin, end in itertools.pairwise(edges):
        user = np.repeat(np.arange(end - begin), slots[begin:end])
        item = _draw_items(
            seed, catalogue, planted[begin:end], user, begin, first_slot[begin : end + 1]
        )
        chunks.append(split_first_distinct(user, item, wanted[begin:end], catalogue.items))
    return concatenate(chunks)


def _draw_items(
    seed: int,
    catalogue: Catalogue,
    planted: np.ndarray,
    user: np.ndarray,
    first_user: int,
    first_slot: np.ndarray,
) -> np.ndarray:
    """int64 [slots]: one item for each slot, with repeats.

    The last slots of a user have consecutive ids after a random one. They are all different, so
    every user has at least FEWEST_ITEMS_A_USER distinct items.
    """
    begin, count = int(first_slot[0]), len(user)
    by_source, by_cluster, by_item = (
        uniforms(seed, _SLOTS + draw, begin, count) for draw in range(3)
    )
    edge = np.cumsum(planted, axis=1)[:, :2]
    source = (by_source[:, None] >= edge[user]).sum(axis=1)
    item = np.empty(count, np.int64)
    for index, clusters in enumerate(catalogue.num_clusters):
        favourites = _favourite_clusters(seed, index, first_user, len(planted), clusters)
        chosen = np.flatnonzero(source == index)
        share = by_cluster[chosen]
        first = favourites[user[chosen], (share >= FAVOURITE).astype(np.int64)]
        everywhere = share >= 1 - BACKGROUND
        last = np.where(everywhere, clusters - 1, first)
        first = np.where(everywhere, 0, first)
        item[chosen] = catalogue.pick(index, first, last, by_item[chosen])
    tail = first_slot[1:, None] - begin - FEWEST_ITEMS_A_USER + np.arange(FEWEST_ITEMS_A_USER)
    start = (by_item[tail[:, :1]] * catalogue.items).astype(np.int64)
    item[tail] = (start + np.arange(FEWEST_ITEMS_A_USER)) % catalogue.items
    return item


def _favourite_clusters(
    seed: int, source: int, first_user: int, users: int, clusters: int
) -> np.ndarray:
    """int64 [users, 2]: the two different preferred clusters of every user in a source."""
    u = uniforms(seed, _CLUSTERS + source, 2 * first_user, 2 * users).reshape(users, 2)
    first = (u[:, 0] * clusters).astype(np.int64)
    second = (first + 1 + (u[:, 1] * (clusters - 1)).astype(np.int64)) % clusters
    return np.stack([first, second], axis=1)
