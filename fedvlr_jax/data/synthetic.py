"""Synthetic data in which every user has known weights over id, text and image.

Three independent partitions assign every item to one cluster of each source: id, text and image.
The features of an item show its text and image cluster; only the interactions show its id cluster.
A user prefers two clusters of each source and has weights over the sources. Each draw picks a
source by the user's weights, then a preferred cluster of that source, then an item of the cluster
by popularity. Repeated items are dropped. The history of a user with all weight on image is
therefore predictable only from image features.

A seed gives the same data on every machine. The only random numbers are uniforms of Philox, a
counter-based generator whose stream NumPy guarantees; NumPy does not guarantee the streams of its
other distributions. Stored real numbers are computed with + - * / and sqrt in a fixed order, which
IEEE 754 rounds equally everywhere. Matrix products of a library are avoided, because their order of
summation may differ.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from fedvlr_jax.config import SYNTHETIC_KINDS as KINDS
from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.division import Rows, interactions_of
from fedvlr_jax.errors import InputError

SOURCES = ("id", "text", "image")

_FEWEST_ITEMS_A_USER = 5
_LARGEST_SHARE = 4  # No user has more than 1/4 of the catalogue.
_ACTIVITY_SPREAD = 0.8  # Standard deviation of the log of the history length.
_POPULARITY_EXPONENT = 0.7
FAVOURITE = 0.7  # Probability of the first of the two preferred clusters.
BACKGROUND = 0.05  # Probability of a draw by popularity only.
_CENTRE_WIDTH = 16  # Dimension of the space of the cluster centres of a feature.
_NOISE = 0.5  # Standard deviation of items around their centre; centres have 1.
_SLOTS_A_CHUNK = 1 << 21  # Bounds memory only; the data do not depend on it.

_LENGTH, _WEIGHTS, _CLUSTERS, _SLOTS, _POPULARITY, _PARTITION, _FEATURE = range(0, 70, 10)


def generate(
    *,
    kind: str = "planted",
    users: int = 1000,
    items: int = 2000,
    seed: int = 0,
    mean_history: float = 20,
    text_width: int = 48,
    image_width: int = 64,
) -> Dataset:
    """Generates a data set, split leave-one-out in draw order.

    Args:
      kind: "planted" as above. The other kinds are controls. "additive": the weights act in
        another form, without clusters (`additive.py`). "equal": all users have equal weights over
        the sources, so the weights are not personal. "no-content": the features show other
        clusters than the interactions.
      users: number of users, 10 to 10 million. Time and memory grow with users * mean_history and
        with items; no array has users x items entries. A million users take about a minute.
      items: size of the catalogue, 50 to 10 million.
      seed: in [0, 2**64).
      mean_history: mean history length before clipping, 5 to 10000. Lengths are log-normal, at
        least 5 and at most a quarter of the catalogue. Users who exhaust their clusters have
        shorter histories.
      text_width, image_width: columns of the features, 2 to 16384.

    Returns:
      A data set with `features` "text" and "image" (float32, rows of unit norm),
      `planted` float32 [users, 3] over ("id", "text", "image"), each row drawn from
      Dirichlet(1/2, 1/2, 1/2). `planted` is None for the kinds "equal" and "no-content", where a
      router has nothing to learn. Times count the draws of each user from 0.

    Raises:
      InputError: an argument is out of range; the message names it.
    """
    _whole("users", users, least=10, most=10**7)
    _whole("items", items, least=50, most=10**7)
    _whole("seed", seed, least=0, most=2**64 - 1)
    _whole("text_width", text_width, least=2, most=2**14)
    _whole("image_width", image_width, least=2, most=2**14)
    _check_mean_history(mean_history)
    if kind not in KINDS:
        raise InputError(f"synthetic kind: found {kind!r}, expected one of {', '.join(KINDS)}")
    planted = _planted_weights(seed, users)
    if kind == "equal":
        planted = np.full_like(planted, 1 / len(SOURCES))
    widths = {"text": text_width, "image": image_width}
    if kind == "additive":
        from fedvlr_jax.data import additive

        parts = additive.interactions(seed, items, planted, mean_history)
        features = {
            name: additive.features(seed, items, SOURCES.index(name), width)
            for name, width in widths.items()
        }
    else:
        catalogue = Catalogue(seed, items)
        parts = _draw_interactions(seed, catalogue, planted, mean_history)
        # With another seed, the clusters of the features are independent of the interactions.
        feature_seed = (seed + 1) % 2**64 if kind == "no-content" else seed
        clusters = catalogue if feature_seed == seed else Catalogue(feature_seed, items)
        features = {
            name: _features(feature_seed, SOURCES.index(name), clusters.cluster_of(name), width)
            for name, width in widths.items()
        }
    has_truth = kind in ("planted", "additive")
    described = f"synthetic: {users} users, {items} items, seed {seed}"
    return Dataset(
        name="synthetic",
        train=parts[splits.TRAIN],
        valid=parts[splits.VALID],
        test=parts[splits.TEST],
        features=features,
        user_ids=np.arange(users).astype(f"U{len(str(users))}"),
        item_ids=np.arange(items).astype(f"U{len(str(items))}"),
        split="leave-one-out",
        notes=(described if kind == "planted" else f"{described}, kind {kind}",),
        planted=planted.astype(np.float32) if has_truth else None,
    )


def _whole(name: str, value: int, *, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"synthetic {name}: found {value!r}, expected a whole number")
    if not least <= value <= most:
        raise InputError(f"synthetic {name}: found {value}, expected one in [{least}, {most}]")


def _check_mean_history(value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InputError(f"synthetic mean_history: found {value!r}, expected a number")
    if not _FEWEST_ITEMS_A_USER <= value <= 10_000:
        raise InputError(
            f"synthetic mean_history: found {value}, expected one in "
            f"[{_FEWEST_ITEMS_A_USER}, 10000]"
        )


# Random numbers.


def uniforms(seed: int, stream: int, start: int, count: int) -> np.ndarray:
    """float64 [count] in [0, 1): the entries from `start` on of a stream of random numbers."""
    philox = np.random.Philox(key=np.array([seed, stream], np.uint64))
    philox.advance(start // 4)  # One step of the counter yields four numbers.
    return np.random.Generator(philox).random(start % 4 + count)[start % 4 :]


def normals(seed: int, stream: int, count: int) -> np.ndarray:
    """Approximately normal float64 [count]: the sum of twelve uniforms minus six.

    The sum has equal bits on every machine.
    """
    total = np.full(count, -6.0)
    for term in range(12):
        total += uniforms(seed, stream, term * count, count)
    return total


def _planted_weights(seed: int, users: int) -> np.ndarray:
    """float64 [users, 3], Dirichlet(1/2) rows: squared normals are Gamma(1/2) variables."""
    gamma = np.square(normals(seed, _WEIGHTS, users * len(SOURCES))) + 1e-12
    gamma = gamma.reshape(users, len(SOURCES))
    return gamma / (gamma[:, 0] + gamma[:, 1] + gamma[:, 2])[:, None]


# Items.


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


def _features(seed: int, source: int, cluster: np.ndarray, width: int) -> np.ndarray:
    """float32 [items, width]: (cluster centre + noise), projected, rows of unit norm."""
    stream = _FEATURE + 3 * source
    clusters, items = int(cluster.max()) + 1, len(cluster)
    centre = normals(seed, stream, clusters * _CENTRE_WIDTH).reshape(clusters, _CENTRE_WIDTH)
    noise = normals(seed, stream + 1, items * _CENTRE_WIDTH).reshape(items, _CENTRE_WIDTH)
    projection = normals(seed, stream + 2, _CENTRE_WIDTH * width).reshape(_CENTRE_WIDTH, width)
    return projected_unit_rows(centre[cluster] + _NOISE * noise, projection)


def projected_unit_rows(latent: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """float32 [items, width]: latent @ projection with rows of unit norm, exact as `product`."""
    projected = product(latent, projection)
    norm = np.zeros(len(projected))
    for column in range(projected.shape[1]):
        norm += np.square(projected[:, column])
    return (projected / np.sqrt(norm)[:, None]).astype(np.float32)


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left @ right in a fixed order of summation: equal bits on every machine."""
    total = np.zeros((len(left), right.shape[1]))
    for axis in range(left.shape[1]):
        total += left[:, axis, None] * right[axis]
    return total


# Interactions.


def _draw_interactions(
    seed: int, catalogue: Catalogue, planted: np.ndarray, mean_history: float
) -> list[Interactions]:
    """Train, valid and test, drawn for one chunk of users after the other."""
    wanted = history_lengths(seed, len(planted), catalogue.items, mean_history)
    slots = 2 * wanted + 8 + _FEWEST_ITEMS_A_USER
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


def history_lengths(seed: int, users: int, items: int, mean: float) -> np.ndarray:
    """int64 [users], log-normal, at least 5 and at most a quarter of the catalogue."""
    log_length = math.log(mean) - _ACTIVITY_SPREAD**2 / 2
    length = np.exp(log_length + _ACTIVITY_SPREAD * normals(seed, _LENGTH, users))
    return np.clip(length.astype(np.int64), _FEWEST_ITEMS_A_USER, items // _LARGEST_SHARE)


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
    every user has at least _FEWEST_ITEMS_A_USER distinct items.
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
    tail = first_slot[1:, None] - begin - _FEWEST_ITEMS_A_USER + np.arange(_FEWEST_ITEMS_A_USER)
    start = (by_item[tail[:, :1]] * catalogue.items).astype(np.int64)
    item[tail] = (start + np.arange(_FEWEST_ITEMS_A_USER)) % catalogue.items
    return item


def _favourite_clusters(
    seed: int, source: int, first_user: int, users: int, clusters: int
) -> np.ndarray:
    """int64 [users, 2]: the two different preferred clusters of every user in a source."""
    u = uniforms(seed, _CLUSTERS + source, 2 * first_user, 2 * users).reshape(users, 2)
    first = (u[:, 0] * clusters).astype(np.int64)
    second = (first + 1 + (u[:, 1] * (clusters - 1)).astype(np.int64)) % clusters
    return np.stack([first, second], axis=1)


def split_first_distinct(
    user: np.ndarray, item: np.ndarray, wanted: np.ndarray, num_items: int
) -> tuple[Interactions, ...]:
    """Train, valid and test of the first `wanted` [N] distinct items of each user."""
    keep, _ = splits.find_repeats(user, item, np.zeros(len(user), np.int64))
    user, item = user[keep], item[keep]
    counts = np.bincount(user, minlength=len(wanted))
    time = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = Rows(np.arange(len(user)), user, item, time, None).where(time < wanted[user])
    part = splits.parts_from_the_end(np.bincount(rows.user, minlength=len(wanted)))
    return interactions_of(rows._replace(part=part), len(wanted), num_items)


def concatenate(chunks: list[tuple[Interactions, ...]]) -> list[Interactions]:
    """Train, valid and test of all users, from those of consecutive chunks of users."""
    parts = []
    for chunks_of_part in zip(*chunks, strict=True):
        counts = np.concatenate([chunk.counts for chunk in chunks_of_part])
        parts.append(
            Interactions(
                indptr=np.concatenate([[0], np.cumsum(counts)]),
                item=np.concatenate([chunk.item for chunk in chunks_of_part]),
                time=np.concatenate([chunk.time for chunk in chunks_of_part]),
                num_items=chunks_of_part[0].num_items,
            )
        )
    return parts
