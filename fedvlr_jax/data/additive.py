"""Synthetic data without clusters: the preference of a user is a weighted sum over the sources.

Every item has a latent vector for each of id, text and image. The text and image features are
noisy projections of the latent vectors. A user has a vector and a weight for each source. The
score of an item is the weighted sum of the inner products. The history is drawn without
replacement, with probabilities proportional to popularity times exp(score). The data thus have
personal weights over the sources like those of `clusters.py`, but no mixture of clusters.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from fedvlr_jax.data.clusters import Catalogue
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.synthetic_parts import (
    SOURCES,
    concatenate,
    history_lengths,
    normals,
    product,
    projected_unit_rows,
    split_first_distinct,
    uniforms,
)
from fedvlr_jax.errors import InputError

LATENT_WIDTH = 8  # Width of an item's and a user's vector in each source.
SHARPNESS = 6.0  # Scale of the score in the logarithm of a probability.
FEATURE_NOISE = 0.5  # Standard deviation of the noise; latent vectors have 1.
MOST_SCORES = 10**9  # Maximum of users x items: every pair has a score.
_SCORES_A_CHUNK = 1 << 22

_ITEM, _USER, _DRAW, _SHOWN, _PROJECTION = range(1000, 1050, 10)


def item_vectors(seed: int, items: int, source: int) -> np.ndarray:
    """float64 [items, LATENT_WIDTH]: the latent vectors that the interactions depend on."""
    return normals(seed, _ITEM + source, items * LATENT_WIDTH).reshape(items, LATENT_WIDTH)


def features(seed: int, items: int, source: int, width: int) -> np.ndarray:
    """float32 [items, width]: the latent vectors with noise, projected, rows of unit norm."""
    noise = normals(seed, _SHOWN + source, items * LATENT_WIDTH).reshape(items, LATENT_WIDTH)
    latent = item_vectors(seed, items, source) + FEATURE_NOISE * noise
    projection = normals(seed, _PROJECTION + source, LATENT_WIDTH * width)
    return projected_unit_rows(latent, projection.reshape(LATENT_WIDTH, width))


def interactions(
    seed: int, items: int, planted: np.ndarray, mean_history: float
) -> list[Interactions]:
    """Train, valid and test.

    Args:
      planted: float64 [users, 3], the weights of every user over SOURCES.

    Raises:
      InputError: users x items exceeds MOST_SCORES.
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
        split_first_distinct(user, item, wanted[begin:end], items)
        for (begin, end), (user, item) in zip(itertools.pairwise(edges), drawn, strict=True)
    ]
    return concatenate(chunks)


def _draws(
    seed: int, items: int, planted: np.ndarray, wanted: np.ndarray, edges: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(user, item) of each chunk of users; the items of a user are in the order of the draws."""
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
            score += weight * product(tastes[source][begin:end], vectors[source].T)
        # The k largest values of score + Gumbel noise are k draws without replacement.
        uniform = uniforms(seed, _DRAW, begin * items, (end - begin) * items)
        score -= np.log(-np.log(np.maximum(uniform, 1e-300))).reshape(score.shape)
        longest = int(wanted[begin:end].max())
        best = np.argsort(-score, axis=1, kind="stable")[:, :longest]
        taken = np.arange(longest) < wanted[begin:end, None]
        yield np.repeat(np.arange(end - begin), wanted[begin:end]), best[taken]
