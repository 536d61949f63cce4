"""What a client looks at in an item, from its own history alone and in closed form.

A source of items is anything with a row an item: the embeddings of a modality, or an ID table.
With x the centred rows at unit length and p the items' shares of all interactions, item j of a
history O speaks by source g for item i, against popularity, with

    K_g(j, i) = exp(b_g <x_j, x_i>) / sum over l of p_l exp(b_g <x_j, x_l>),

and the rest of the history with the mean L_g(i) of K_g(j, i) over j in O but i. If each item came
by one of the sources, drawn with the client's weights w, or with a chance e by popularity alone,
then w maximises

    sum over i in O of log sum_g w_g (e + (1 - e) L_g(i)),

which expectation-maximisation finds, here with a prior that keeps every weight above 0. It is
the client's own computation; what it needs of the server are the rows of its items and the sums
below K's fraction line. How sharp a source is, b_g, is one number for everyone.

All is float64 on the host, and the same for every seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.cohorts import bucket_clients, pad_histories
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.features import centred_unit_rows

BACKGROUND = 0.05  # e of the module's docstring.
PRIOR = 0.5  # Items that each source is given beforehand.
STEPS = 50
# Sums over the catalogue are estimated from so many items where there are more.
MOST_REFERENCES = 4096
# Numbers of one array of pairs: of a chunk's items, or of items with references.
PAIRS_AT_ONCE = 1 << 22


class Source(NamedTuple):
    """Rows [I, d] of all items, and the sharpness b of the module's docstring."""

    rows: np.ndarray
    sharpness: float


def preferences(train: Interactions, sources: Sequence[Source]) -> np.ndarray:
    """float64 [N, S]: the weights of each client over the sources, above 0, rows sum to one.

    Args:
      train: the histories; a client with a single item gets equal weights.
    """
    known = []
    for rows, sharpness in sources:
        unit = centred_unit_rows(rows)
        known.append((unit, _popular_mean(train, unit, sharpness), sharpness))
    weights = np.empty((train.num_users, len(known)))
    for clients, item, real in _chunks(train):
        likelihood = [_likelihood(*of_source, item, real) for of_source in known]
        weights[clients] = _fit(np.stack(likelihood, axis=-1), real)
    return weights


def _popular_mean(train: Interactions, unit: np.ndarray, sharpness: float) -> np.ndarray:
    """[I]: sum over l of p_l exp(b (<x_j, x_l> - 1)) for every item j."""
    share = train.item_counts / train.item_counts.sum()
    if train.num_items > MOST_REFERENCES:
        drawn = np.random.default_rng(0).choice(train.num_items, MOST_REFERENCES, p=share)
        share = np.full(MOST_REFERENCES, 1 / MOST_REFERENCES)
        references = unit[drawn]
    else:
        references = unit
    size = max(1, PAIRS_AT_ONCE // len(references))
    parts = [
        np.exp(sharpness * (unit[i : i + size] @ references.T - 1)) @ share
        for i in range(0, train.num_items, size)
    ]
    return np.concatenate(parts)


def _chunks(train: Interactions) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(clients [B], their items [B, P], which of these are real), a bounded number at a time."""
    for bucket in bucket_clients(train, by_length=True):
        longest = int(train.counts[bucket].max())
        size = max(1, PAIRS_AT_ONCE // longest**2)
        for begin in range(0, len(bucket), size):
            clients = bucket[begin : begin + size]
            item = np.asarray(pad_histories(train, clients).item)
            real = item < train.num_items
            yield clients, np.where(real, item, 0), real


def _likelihood(
    unit: np.ndarray, mean: np.ndarray, sharpness: float, item: np.ndarray, real: np.ndarray
) -> np.ndarray:
    """[B, P]: e + (1 - e) L(i) of each item by the rest of its history; 1 where there is none."""
    rows = unit[item]
    kernel = np.exp(sharpness * (rows @ np.swapaxes(rows, 1, 2) - 1)) / mean[item][:, :, None]
    others = real[:, :, None] & ~np.eye(item.shape[1], dtype=bool)
    count = np.sum(real, axis=1, keepdims=True) - 1
    by_others = np.sum(kernel, axis=1, where=others) / np.maximum(count, 1)
    return np.where(count > 0, BACKGROUND + (1 - BACKGROUND) * by_others, 1.0)


def _fit(likelihood: np.ndarray, real: np.ndarray) -> np.ndarray:
    """[B, S]: the weights by expectation-maximisation, given [B, P, S]."""
    num_sources = likelihood.shape[-1]
    count = np.sum(real, axis=1, keepdims=True)
    weights = np.full((len(real), num_sources), 1 / num_sources)
    for _ in range(STEPS):
        by_source = weights[:, None] * likelihood
        by_source /= by_source.sum(axis=-1, keepdims=True)
        explained = np.sum(by_source, axis=1, where=real[:, :, None])
        weights = (PRIOR + explained) / (count + num_sources * PRIOR)
    return weights
