"""Synthetic data without clusters: a user's taste is a sum of inner products, one a source.

Every item has a latent vector for each of id, text and image. Features show those of text and
image, projected and with noise. A user has a vector and a weight for each source. The user's
history is drawn without replacement with probabilities proportional to the item's popularity
times exp of the weighted sum. So the data have personal weights over the sources as those of
`synthetic` have, in another form than a mixture of clusters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.synthetic import (
    SOURCES,
    Catalogue,
    concatenate,
    first_distinct,
    history_lengths,
    normals,
    uniforms,
)
from fedvlr_jax.errors import InputError

LATENT_WIDTH = 8  # Of an item's and a user's vector in each source.
SHARPNESS = 6.0  # How far the taste moves the logarithm of a probability.
FEATURE_NOISE = 0.5  # Deviation of the noise on a latent vector, in its own deviations.
MOST_SCORES = 10**9  # Users x items: every pair has a score.
_SCORES_A_CHUNK = 1 << 22

_ITEM, _USER, _DRAW, _SHOWN, _PROJECTION = range(1000, 1050, 10)


def item_vectors(seed: int, items: int, source: int) -> np.ndarray:
    """float64 [items, LATENT_WIDTH]: what the interactions depend on."""
    return normals(seed, _ITEM + source, items * LATENT_WIDTH).reshape(items, LATENT_WIDTH)


def features(seed: int, items: int, source: int, width: int) -> np.ndarray:
    """float32 [items, width]: the latent vectors with noise, projected, rows of unit norm."""
    noise = normals(seed, _SHOWN + source, items * LATENT_WIDTH).reshape(items, LATENT_WIDTH)
    latent = item_vectors(seed, items, source) + FEATURE_NOISE * noise
    projection = normals(seed, _PROJECTION + source, LATENT_WIDTH * width)
    projected = _product(latent, projection.reshape(LATENT_WIDTH, width))
    norm = np.zeros(items)
    for column in range(width):
        norm += np.square(projected[:, column])
    return (projected / np.sqrt(norm)[:, None]).astype(np.float32)


def interactions(
    seed: int, items: int, planted: np.ndarray, mean_history: float
) -> list[Interactions]:
    """Train, valid and test.

    Args:
      planted: float64 [users, 3], the weights of every user over SOURCES.

    Raises:
      InputError: more than MOST_SCORES pairs of a user and an item.
    """
    users = len(planted)
    if users * items > MOST_SCORES:
        raise InputError(
            f"synthetic kind additive: {users} users x {items} items are more than "
            f"{MOST_SCORES:,} scores; give fewer of either"
        )
    wanted = history_lengths(seed, users, items, mean_history)
    size = max(1, _SCORES_A_CHUNK // items)
    edges = [*range(0, users, size), users]
    drawn = _draws(seed, items, planted, wanted, edges)
    chunks = [
        first_distinct(user, item, wanted[begin:end], items)
        for (begin, end), (user, item) in zip(itertools.pairwise(edges), drawn, strict=True)
    ]
    parts = range(len(splits.PART_NAMES))
    return [concatenate([chunk[part] for chunk in chunks]) for part in parts]


def _draws(
    seed: int, items: int, planted: np.ndarray, wanted: np.ndarray, edges: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(user, item) of each chunk of users, a user's items in the order of the draw."""
    users = len(planted)
    vectors = [item_vectors(seed, items, source) for source in range(len(SOURCES))]
    tastes = [
        normals(seed, _USER + source, users * LATENT_WIDTH).reshape(users, LATENT_WIDTH)
        for source in range(len(SOURCES))
    ]
    log_popularity = np.log(Catalogue(seed, items).popularity)
    for begin, end in itertools.pairwise(edges):
        score = np.broadcast_to(log_popularity, (end - begin, items)).copy()
        for source in range(len(SOURCES)):
            weight = SHARPNESS / np.sqrt(LATENT_WIDTH) * planted[begin:end, source, None]
            score += weight * _product(tastes[source][begin:end], vectors[source].T)
        # The largest of score + Gumbel noise are draws without replacement (Gumbel-top-k).
        uniform = uniforms(seed, _DRAW, begin * items, (end - begin) * items)
        score -= np.log(-np.log(np.maximum(uniform, 1e-300))).reshape(score.shape)
        longest = int(wanted[begin:end].max())
        best = np.argsort(-score, axis=1, kind="stable")[:, :longest]
        taken = np.arange(longest) < wanted[begin:end, None]
        yield np.repeat(np.arange(end - begin), wanted[begin:end]), best[taken]


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left @ right in a fixed order of summation: the same bits on every machine."""
    total = np.zeros((len(left), right.shape[1]))
    for axis in range(left.shape[1]):
        total += left[:, axis, None] * right[axis]
    return total
