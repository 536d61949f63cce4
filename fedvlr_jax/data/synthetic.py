"""Synthetic data whose every user has known weights over id, text and image.

Three independent partitions put every item in one cluster of each source: a text
cluster and an image cluster, which its features show, and an id cluster, which only the
interactions show. A user prefers two clusters of each source and has weights over the
sources. Each draw picks a source by the user's weights, one of the preferred clusters
of that source, and from it an item by popularity; repeats are dropped. So a user with
all weight on image is predictable from image features and from nothing else.

The data are the same for a seed on every machine. Uniforms come from Philox, a counter
generator whose stream NumPy keeps; all else is built from them here, because NumPy does
not promise the streams of its other distributions. What is stored as a real number uses
only + - * / and sqrt in a fixed order, which IEEE 754 rounds the same everywhere; that
rules out matrix products (their order of summation depends on the library).
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from fedvlr_jax.config import SYNTHETIC_KINDS as KINDS
from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError

SOURCES = ("id", "text", "image")

_FEWEST_ITEMS_A_USER = 5
_LARGEST_SHARE = 4  # No user has more than 1/4 of the catalogue.
_ACTIVITY_SPREAD = 0.8  # Standard deviation of the log of the history length.
_POPULARITY_EXPONENT = 0.7
FAVOURITE = 0.7  # Share of the first of the two preferred clusters.
BACKGROUND = 0.05  # Share of draws by popularity alone.
_CENTRE_WIDTH = 16  # Dimension in which the clusters of a feature lie.
_NOISE = 0.5  # Distance of an item from its cluster centre, in centre deviations.
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
      kind: "planted" as above. Three kinds tell whether a method claims too much. "additive": the
        same weights act in another form, without clusters (`additive.py`). "equal": all users
        weigh the sources alike, so that nothing personal is in the weights. "no-content": the
        features belong to other clusters than those that the interactions show.
      users: number of users, 10 to 10 million. Time and memory grow with users * mean_history
        and with items; users x items is never built. A million users take about a minute.
      items: size of the catalogue, 50 to 10 million.
      seed: in [0, 2**64).
      mean_history: mean history length before clipping, 5 to 10000. Lengths are
        log-normal, at least 5 and at most a quarter of the catalogue; users who exhaust
        their clusters end up shorter.
      text_width, image_width: columns of the features, 2 to 16384.

    Returns:
      A data set with `features` "text" and "image" (float32, rows of unit norm),
      `planted` float32 [users, 3] over ("id", "text", "image"), each row drawn from
      Dirichlet(1/2, 1/2, 1/2); None for the kinds "equal" and "no-content", which have no
      truth that a router could find. Times count the draws of each user from 0.

    Raises:
      InputError: names the argument that is out of range.
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
        # Of another seed, the clusters of the features are independent of the interactions.
        shown_seed = (seed + 1) % 2**64 if kind == "no-content" else seed
        shown = catalogue if shown_seed == seed else Catalogue(shown_seed, items)
        features = {
            name: _features(shown_seed, SOURCES.index(name), shown.cluster_of(name), width)
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
    """Entries start to start + count of a stream: float64 in [0, 1), any part at a time."""
    philox = np.random.Philox(key=np.array([seed, stream], np.uint64))
    philox.advance(start // 4)  # One step of the counter yields four numbers.
    return np.random.Generator(philox).random(start % 4 + count)[start % 4 :]


def normals(seed: int, stream: int, count: int) -> np.ndarray:
    """Near-normal float64 [count]: twelve uniforms less six, exact on every machine."""
    total = np.full(count, -6.0)
    for term in range(12):
        total += uniforms(seed, stream, term * count, count)
    return total


def _planted_weights(seed: int, users: int) -> np.ndarray:
    """Dirichlet(1/2) rows, float64 [users, 3]: squared normals are Gamma(1/2) variables."""
    gamma = np.square(normals(seed, _WEIGHTS, users * len(SOURCES))) + 1e-12
    gamma = gamma.reshape(users, len(SOURCES))
    return gamma / (gamma[:, 0] + gamma[:, 1] + gamma[:, 2])[:, None]


# Items.


class Catalogue:
    """Popularity of the items, and their cluster in each source.

    For each source the items stand in order of cluster, and `cumulative` sums their
    popularity in that order, so an item of a cluster is one binary search away.
    """

    def __init__(self, seed: int, items: int) -> None:
        rank = np.argsort(uniforms(seed, _POPULARITY, 0, items), kind="stable") + 1.0
        self.items = items
        popularity = rank**-_POPULARITY_EXPONENT
        self.popularity = popularity
        # Different numbers, so that a mix-up of the sources cannot go unseen.
        root = math.sqrt(items)
        self.num_clusters = (int(root), int(0.8 * root), int(1.2 * root))
        self.order: list[np.ndarray] = []
        self.bounds: list[np.ndarray] = []
        self.cumulative: list[np.ndarray] = []
        for source, clusters in enumerate(self.num_clusters):
            order = np.argsort(uniforms(seed, _PARTITION + source, 0, items), kind="stable")
            self.order.append(order)
            self.bounds.append(np.arange(clusters + 1) * items // clusters)
            self.cumulative.append(np.concatenate([[0.0], np.cumsum(popularity[order])]))

    def cluster_of(self, source_name: str) -> np.ndarray:
        """int64 [items]: the cluster of every item in one source."""
        source = SOURCES.index(source_name)
        cluster = np.empty(self.items, np.int64)
        cluster[self.order[source]] = np.repeat(
            np.arange(self.num_clusters[source]), np.diff(self.bounds[source])
        )
        return cluster

    def pick(self, source: int, first: np.ndarray, last: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Items by popularity among clusters first to last of a source, by inverse CDF."""
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
    latent = centre[cluster] + _NOISE * noise
    projected = np.zeros((items, width))
    for axis in range(_CENTRE_WIDTH):
        projected += latent[:, axis, None] * projection[axis]
    norm = np.zeros(items)
    for column in range(width):
        norm += np.square(projected[:, column])
    return (projected / np.sqrt(norm)[:, None]).astype(np.float32)


# Interactions.


def _draw_interactions(
    seed: int, catalogue: Catalogue, planted: np.ndarray, mean_history: float
) -> list[Interactions]:
    """Train, valid and test, drawn over chunks of users."""
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
        chunks.append(first_distinct(user, item, wanted[begin:end], catalogue.items))
    return [concatenate([chunk[part] for chunk in chunks]) for part in range(3)]


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
    """int64 [slots]: one item a slot, repeats included.

    The last slots of a user are neighbouring ids from a random one on: all different, so
    that every user reaches the fewest items.
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


def first_distinct(
    user: np.ndarray, item: np.ndarray, wanted: np.ndarray, num_items: int
) -> list[Interactions]:
    """Drops repeats, keeps the first `wanted` items of each user, and splits them."""
    keep, _ = splits.find_repeats(user, item, np.zeros(len(user), np.int64))
    user, item = user[keep], item[keep]
    counts = np.bincount(user, minlength=len(wanted))
    time = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    inside = time < wanted[user]
    user, item, time = user[inside], item[inside], time[inside]
    part = splits.parts_from_the_end(np.bincount(user, minlength=len(wanted)))
    return [
        Interactions.from_pairs(
            user=user[part == index],
            item=item[part == index],
            time=time[part == index],
            num_users=len(wanted),
            num_items=num_items,
        )
        for index in range(len(splits.PART_NAMES))
    ]


def concatenate(chunks: list[Interactions]) -> Interactions:
    counts = np.concatenate([chunk.counts for chunk in chunks])
    return Interactions(
        indptr=np.concatenate([[0], np.cumsum(counts)]),
        item=np.concatenate([chunk.item for chunk in chunks]),
        time=np.concatenate([chunk.time for chunk in chunks]),
        num_items=chunks[0].num_items,
    )
