"""Parts that all kinds of synthetic data share: random numbers, weights, history lengths, splits.

A seed gives the same data on every machine. The only random numbers are uniforms of Philox, a
counter-based generator whose stream NumPy guarantees; NumPy does not guarantee the streams of its
other distributions. Stored real numbers are computed with + - * / and sqrt in a fixed order, which
IEEE 754 rounds equally everywhere. Matrix products of a library are avoided, because their order of
summation may differ.
"""

from __future__ import annotations

import math

import numpy as np

from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.division import Rows, interactions_of

SOURCES = ("id", "text", "image")

FEWEST_ITEMS_A_USER = 5
_LARGEST_SHARE = 4  # No user has more than 1/4 of the catalogue.
_ACTIVITY_SPREAD = 0.8  # Standard deviation of the log of the history length.

# The first streams of random numbers; `clusters.py` and `additive.py` have others.
_LENGTH, _WEIGHTS = 0, 10


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


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left @ right in a fixed order of summation: equal bits on every machine."""
    total = np.zeros((len(left), right.shape[1]))
    for axis in range(left.shape[1]):
        total += left[:, axis, None] * right[axis]
    return total


def projected_unit_rows(latent: np.ndarray, projection: np.ndarray) -> np.ndarray:
    """float32 [items, width]: latent @ projection with rows of unit norm, exact as `product`."""
    projected = product(latent, projection)
    norm = np.zeros(len(projected))
    for column in range(projected.shape[1]):
        norm += np.square(projected[:, column])
    return (projected / np.sqrt(norm)[:, None]).astype(np.float32)


def planted_weights(seed: int, users: int) -> np.ndarray:
    """float64 [users, 3], Dirichlet(1/2) rows: squared normals are Gamma(1/2) variables."""
    gamma = np.square(normals(seed, _WEIGHTS, users * len(SOURCES))) + 1e-12
    gamma = gamma.reshape(users, len(SOURCES))
    return gamma / (gamma[:, 0] + gamma[:, 1] + gamma[:, 2])[:, None]


def history_lengths(seed: int, users: int, items: int, mean: float) -> np.ndarray:
    """int64 [users], log-normal, at least 5 and at most a quarter of the catalogue."""
    log_length = math.log(mean) - _ACTIVITY_SPREAD**2 / 2
    length = np.exp(log_length + _ACTIVITY_SPREAD * normals(seed, _LENGTH, users))
    return np.clip(length.astype(np.int64), FEWEST_ITEMS_A_USER, items // _LARGEST_SHARE)


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
