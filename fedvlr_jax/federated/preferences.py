"""What a client looks at in an item, by its own history, before any training.

Each item of a history came by one of the sources: by a modality, whose rows show which items
are alike, or by what only the interactions show, the ID. With source g drawn by the client's
weights w, and what g says relative to the item's popularity p_i, the chance of item i is

    p_i sum_g w_g L_g(i).

A modality says of i what the rest of the history O says by likeness of rows x, with a chance e
that it was popularity alone,

    L_g(i) = e + (1 - e) mean over j in O, not i, of K_g(j, i),
    K_g(j, i) = exp(b <x_j, x_i>) / sum over l of p_l exp(b <x_j, x_l>).

The rows are centred, at unit length and twice moved to where their likes are, x_i to the
direction of sum_l p_l exp(b <x_i, x_l>) x_l: mean shift (Fukunaga & Hostetler 1975), which makes
clusters of items clear. The ID's likeness is learned: hidden topics t, each a distribution over
items, each client with its own shares of them, as in latent Dirichlet allocation (Blei et al.
2003), by collapsed variational Bayes (CVB0, Asuncion et al. 2009). With r_g(u, i) and q_t(u, i)
the probabilities that entry (u, i) came by source g, and by the ID and topic t, and a sum that
leaves that entry out marked by ',

    L_id(i) = e + (1 - e) sum_t theta_t phi_t(i),
    theta_t = (sum_j' q_t(u, j) + a) / (sum_s sum_j' q_s(u, j) + a T),
    phi_t(i) = (sum_v' q_t(v, i) / p_i + m) / (sum_j sum_v' q_t(v, j) + m),
    r_g = w_g L_g(i) / sum_h w_h L_h(i),   w_g = sum_j' r_g(u, j) + c,
    q_t = r_id theta_t phi_t(i) / sum_s theta_s phi_s(i),

again and again. A client keeps r, q and its weights. What it sends is q on its items, and what
the server answers with is the sum over the clients, [I, T]; an entry is non-zero on the client's
history, so the sums must be secure ones. It is the same for every seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from fedvlr_jax.data.cohorts import bucket_clients, pad_histories
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.features import centred_unit_rows

BACKGROUND = 0.1  # e of the module's docstring.
SHIFTS = 2
TOPIC_PRIOR = 0.03  # a: a client has few topics.
ITEM_PRIOR = 60.0  # m: interactions each topic is given beforehand, by popularity.
SOURCE_PRIOR = 1.0  # c: items each source of a client is given beforehand.
EXCHANGES = 50  # With all clients, where there are topics.
# Sums over the catalogue are estimated from so many items where there are more.
MOST_REFERENCES = 4096
# Numbers of one array of pairs: of a chunk's items, or of items with references.
PAIRS_AT_ONCE = 1 << 22
ENTRIES_AT_ONCE = 1 << 16


def preferences(
    train: Interactions, modalities: Sequence[np.ndarray], *, sharpness: float, topics: int
) -> np.ndarray:
    """float64 [N, S]: each client's weights over the sources, above 0, rows sum to one.

    Args:
      train: the histories; a client with less than two items gets equal weights.
      modalities: embeddings [I, d] of the items, one array a source.
      sharpness: b of the module's docstring.
      topics: T; 0 for no ID among the sources. Where it is above 0, the ID comes first. Takes
        4 T bytes an interaction.
    """
    known = np.empty((len(train.item), len(modalities)))
    for column, rows in enumerate(modalities):
        known[:, column] = _by_modality(train, rows, sharpness)
    return _explain(train, known, topics)


def _by_modality(train: Interactions, rows: np.ndarray, sharpness: float) -> np.ndarray:
    """[E]: L(i) of every interaction by a modality; 1 where the history has no other item."""
    unit, references, share = _shifted(train, centred_unit_rows(rows), sharpness)
    mean = np.concatenate([kernel @ share for kernel in _kernels(unit, references, sharpness)])
    found = np.empty(len(train.item))
    for entry, item in _chunks(train):
        real = entry >= 0
        own = unit[item]
        kernel = np.exp(sharpness * (own @ np.swapaxes(own, 1, 2) - 1)) / mean[item][:, :, None]
        others = real[:, :, None] & ~np.eye(item.shape[1], dtype=bool)
        count = np.sum(real, axis=1, keepdims=True) - 1
        by_others = np.sum(kernel, axis=1, where=others) / np.maximum(count, 1)
        said = np.where(count > 0, BACKGROUND + (1 - BACKGROUND) * by_others, 1.0)
        found[entry[real]] = said[real]
    return found


def _shifted(
    train: Interactions, unit: np.ndarray, sharpness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows [I, d] after mean shift, and the references [R, d] and shares [R] that stand
    for all interactions. Rows at the centre stay there."""
    share = train.item_counts / train.item_counts.sum()
    drawn = np.arange(train.num_items)
    if train.num_items > MOST_REFERENCES:
        drawn = np.random.default_rng(0).choice(train.num_items, MOST_REFERENCES, p=share)
        share = np.full(MOST_REFERENCES, 1 / MOST_REFERENCES)
    somewhere = np.any(unit != 0, axis=1, keepdims=True)
    for _ in range(SHIFTS):
        by_likes = share[:, None] * unit[drawn]
        moved = np.concatenate([k @ by_likes for k in _kernels(unit, unit[drawn], sharpness)])
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        unit = np.where(somewhere & (length > 0), moved / np.where(length > 0, length, 1.0), unit)
    return unit, unit[drawn], share


def _kernels(unit: np.ndarray, references: np.ndarray, sharpness: float) -> Iterator[np.ndarray]:
    """exp(b (<x_i, x_l> - 1)) [B, R] of all items i and references l, some items at a time."""
    size = max(1, PAIRS_AT_ONCE // len(references))
    for begin in range(0, len(unit), size):
        yield np.exp(sharpness * (unit[begin : begin + size] @ references.T - 1))


def _chunks(train: Interactions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Entries and items [B, P] of clients, a bounded number at a time; entry -1 is padding."""
    for bucket in bucket_clients(train, by_length=True):
        longest = max(1, int(train.counts[bucket].max()))
        size = max(1, PAIRS_AT_ONCE // longest**2)
        for begin in range(0, len(bucket), size):
            clients = bucket[begin : begin + size]
            item = np.asarray(pad_histories(train, clients).item)
            entry = train.indptr[clients][:, None] + np.arange(item.shape[1])
            real = item < train.num_items
            yield np.where(real, entry, -1), np.where(real, item, 0)


class _Part(NamedTuple):
    """Some clients, all their entries.

    Attributes:
      entries: where their entries are among all E.
      item: [e]
      client: [e], counted from the part's first.
      by_client: [n, e] of ones, which sums entries by client.
      by_item: [I, e] of ones, which sums entries by item.
      share: float32 [e, 1], p of the entries' items.
      alone: bool [e], the client has no other entry.
    """

    entries: slice
    item: np.ndarray
    client: np.ndarray
    by_client: sparse.csr_matrix
    by_item: sparse.csc_matrix
    share: np.ndarray
    alone: np.ndarray

    def others(self, values: np.ndarray) -> np.ndarray:
        """[e, ...]: sums of the client's other entries."""
        return (self.by_client @ values)[self.client] - values


def _parts(train: Interactions) -> list[_Part]:
    share = train.item_counts / train.item_counts.sum()
    chunk_of = train.indptr[:-1] // ENTRIES_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(chunk_of)) + 1).tolist(), train.num_users]
    parts = []
    for begin, end in itertools.pairwise(edges):
        entries = slice(int(train.indptr[begin]), int(train.indptr[end]))
        item, counts = train.item[entries], train.counts[begin:end]
        ones, each = np.ones(len(item), np.float32), np.arange(len(item))
        within = train.indptr[begin : end + 1] - train.indptr[begin]
        by_client = sparse.csr_matrix((ones, each, within), shape=(end - begin, len(item)))
        by_item = sparse.csc_matrix(
            (ones, item, np.arange(len(item) + 1)), shape=(train.num_items, len(item))
        )
        client = np.repeat(np.arange(end - begin), counts)
        of_entry = share[item, None].astype(np.float32)
        alone = counts[client] == 1
        parts.append(_Part(entries, item, client, by_client, by_item, of_entry, alone))
    return parts


def _explain(train: Interactions, known: np.ndarray, topics: int) -> np.ndarray:
    """The weights [N, S], given what the modalities say [E, M] of every entry."""
    num_sources = known.shape[1] + (topics > 0)
    by_source = np.full((len(train.item), num_sources), 1 / num_sources)
    by_topic = np.random.default_rng(0).standard_exponential((len(train.item), topics), np.float32)
    by_topic /= num_sources * by_topic.sum(axis=1, keepdims=True)
    parts = _parts(train)
    for _ in range(EXCHANGES):
        received = sum(part.by_item @ by_topic[part.entries] for part in parts)
        total = received.sum(axis=0)
        for part in parts:
            said = known[part.entries]
            if topics:
                each, of_id = _topics_say(part, by_topic[part.entries], received, total)
                said = np.column_stack([of_id, said])
            chance = (part.others(by_source[part.entries]) + SOURCE_PRIOR) * said
            chance /= chance.sum(axis=1, keepdims=True)
            by_source[part.entries] = chance
            if topics:
                by_topic[part.entries] = each * chance[:, :1]
    explained = np.concatenate([part.by_client @ by_source[part.entries] for part in parts])
    weights = explained + SOURCE_PRIOR
    weights[train.counts < 2] = 1.0
    return weights / weights.sum(axis=1, keepdims=True)


def _topics_say(
    part: _Part, own: np.ndarray, received: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The topics' probabilities [e, T] if the ID chose an entry's item, and its L [e].

    Args:
      own: q of the entries, float32 [e, T].
      received: its sums over all clients, float32 [I, T].
      total: those summed over the items, float32 [T].
    """
    theta = part.others(own) + TOPIC_PRIOR
    theta /= theta.sum(axis=1, keepdims=True)
    # Rounding of the large sum can leave less than nothing.
    of_item = np.maximum(received[part.item] - own, 0.0) / part.share
    phi = (of_item + ITEM_PRIOR) / (total - own + ITEM_PRIOR)
    each = theta * phi
    chance = each.sum(axis=1, keepdims=True)
    said = BACKGROUND + (1 - BACKGROUND) * chance[:, 0]
    return each / chance, np.where(part.alone, 1.0, said)
