"""A client's weights over the sources of its history, estimated before training.

The model: one of the sources chose each item of a history. A source is a modality, whose rows give
the similarity of items, or the ID, which represents all information of the interactions alone. A
client draws source g by its weights w. With L_g(i) the likelihood of item i under g relative to its
popularity p_i, the probability of item i is

    p_i sum_g w_g L_g(i).

For a modality, L_g is the likeness of row x_i to the rows of the rest of the history O, with a
probability e that popularity alone chose the item,

    L_g(i) = e + (1 - e) mean over j in O, not i, of K_g(j, i),
    K_g(j, i) = exp(b <x_j, x_i>) / sum over l of p_l exp(b <x_j, x_l>).

The rows are centred, scaled to unit length, and moved twice by mean shift (Fukunaga & Hostetler
1975), x_i to the direction of sum_l p_l exp(b <x_i, x_l>) x_l, which separates clusters of items.
The likelihood of the ID is learned as latent Dirichlet allocation (Blei et al. 2003): hidden topics
t, each a distribution over items, and each client with its own shares of them. The method is
collapsed variational Bayes (CVB0, Asuncion et al. 2009). Let r_g(u, i) and q_t(u, i) be the
probabilities that source g, and the ID with topic t, chose entry (u, i), and let ' mark a sum that
leaves that entry out. Then

    L_id(i) = e + (1 - e) sum_t theta_t phi_t(i),
    theta_t = (sum_j' q_t(u, j) + a) / (sum_s sum_j' q_s(u, j) + a T),
    phi_t(i) = (sum_v' q_t(v, i) / p_i + m) / (sum_j sum_v' q_t(v, j) + m),
    r_g = w_g L_g(i) / sum_h w_h L_h(i),   w_g = sum_j' r_g(u, j) + c,
    q_t = r_id theta_t phi_t(i) / sum_s theta_s phi_s(i),

are computed EXCHANGES times. A client keeps r, q and its weights. It sends q on its items, and the
server returns the sum over the clients, [I, T]. A client's q is non-zero on its history only, so
the sums must be secure ones. The result is the same for every seed.
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
ITEM_PRIOR = 60.0  # m: pseudo-interactions of each topic, by popularity.
SOURCE_PRIOR = 1.0  # c: pseudo-items of each source of a client.
EXCHANGES = 50  # Exchanges with all clients, if there are topics.
# Sums over the catalogue are estimated from at most this many items.
MOST_REFERENCES = 4096
# Upper bound on the size of an array of pairs: of a chunk's items, or of items with references.
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
      topics: T; 0: the ID is not among the sources; else it is the first source. Needs 4 T bytes of
        memory per interaction.
    """
    likelihood = np.empty((len(train.item), len(modalities)))
    for column, rows in enumerate(modalities):
        likelihood[:, column] = _modality_likelihood(train, rows, sharpness)
    return _explain(train, likelihood, topics)


def _modality_likelihood(train: Interactions, rows: np.ndarray, sharpness: float) -> np.ndarray:
    """[E]: L(i) of every interaction by a modality; 1 if the history has no other item."""
    unit, references, share = _shifted(train, centred_unit_rows(rows), sharpness)
    mean = np.concatenate([kernel @ share for kernel in _kernels(unit, references, sharpness)])
    found = np.empty(len(train.item))
    for entry, item in _chunks(train):
        real = entry >= 0
        own = unit[item]
        kernel = np.exp(sharpness * (own @ np.swapaxes(own, 1, 2) - 1)) / mean[item][:, :, None]
        others = real[:, :, None] & ~np.eye(item.shape[1], dtype=bool)
        count = np.sum(real, axis=1, keepdims=True) - 1
        mean_kernel = np.sum(kernel, axis=1, where=others) / np.maximum(count, 1)
        likelihood = np.where(count > 0, BACKGROUND + (1 - BACKGROUND) * mean_kernel, 1.0)
        found[entry[real]] = likelihood[real]
    return found


def _shifted(
    train: Interactions, unit: np.ndarray, sharpness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows [I, d] after mean shift, and the references [R, d] and shares [R] that represent
    all interactions. Rows at the centre do not move."""
    share = train.item_counts / train.item_counts.sum()
    drawn = np.arange(train.num_items)
    if train.num_items > MOST_REFERENCES:
        drawn = np.random.default_rng(0).choice(train.num_items, MOST_REFERENCES, p=share)
        share = np.full(MOST_REFERENCES, 1 / MOST_REFERENCES)
    not_at_centre = np.any(unit != 0, axis=1, keepdims=True)
    for _ in range(SHIFTS):
        weighted = share[:, None] * unit[drawn]
        moved = np.concatenate([k @ weighted for k in _kernels(unit, unit[drawn], sharpness)])
        length = np.linalg.norm(moved, axis=1, keepdims=True)
        unit = np.where(
            not_at_centre & (length > 0), moved / np.where(length > 0, length, 1.0), unit
        )
    return unit, unit[drawn], share


def _kernels(unit: np.ndarray, references: np.ndarray, sharpness: float) -> Iterator[np.ndarray]:
    """exp(b (<x_i, x_l> - 1)) [B, R] for all items i and references l, in blocks of B items."""
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


class _ClientBlock(NamedTuple):
    """Consecutive clients, n of them, with all their e entries.

    Attributes:
      entries: the places of their entries among all E.
      item: of each entry [e].
      client: of each entry [e], counted from the first of the block.
      client_sum: [n, e] of ones: times values of the entries, their sums by client.
      item_sum: [I, e] of ones: times values of the entries, their sums by item.
      share: float32 [e, 1], p of the entries' items.
      alone: bool [e], the client has no other entry.
    """

    entries: slice
    item: np.ndarray
    client: np.ndarray
    client_sum: sparse.csr_matrix
    item_sum: sparse.csc_matrix
    share: np.ndarray
    alone: np.ndarray

    def others(self, values: np.ndarray) -> np.ndarray:
        """[e, ...]: sums of the client's other entries."""
        return (self.client_sum @ values)[self.client] - values


def _client_blocks(train: Interactions) -> list[_ClientBlock]:
    share = train.item_counts / train.item_counts.sum()
    chunk_of = train.indptr[:-1] // ENTRIES_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(chunk_of)) + 1).tolist(), train.num_users]
    blocks = []
    for begin, end in itertools.pairwise(edges):
        entries = slice(int(train.indptr[begin]), int(train.indptr[end]))
        item, counts = train.item[entries], train.counts[begin:end]
        ones, places = np.ones(len(item), np.float32), np.arange(len(item))
        within = train.indptr[begin : end + 1] - train.indptr[begin]
        client_sum = sparse.csr_matrix((ones, places, within), shape=(end - begin, len(item)))
        item_sum = sparse.csc_matrix(
            (ones, item, np.arange(len(item) + 1)), shape=(train.num_items, len(item))
        )
        client = np.repeat(np.arange(end - begin), counts)
        entry_share = share[item, None].astype(np.float32)
        alone = counts[client] == 1
        blocks.append(_ClientBlock(entries, item, client, client_sum, item_sum, entry_share, alone))
    return blocks


def _explain(train: Interactions, likelihood: np.ndarray, topics: int) -> np.ndarray:
    """The weights [N, S], given the likelihood of every entry under the modalities [E, M]."""
    num_sources = likelihood.shape[1] + (topics > 0)
    source = np.full((len(train.item), num_sources), 1 / num_sources)
    topic = np.random.default_rng(0).standard_exponential((len(train.item), topics), np.float32)
    topic /= num_sources * topic.sum(axis=1, keepdims=True)
    blocks = _client_blocks(train)
    for _ in range(EXCHANGES):
        received = sum(block.item_sum @ topic[block.entries] for block in blocks)
        total = received.sum(axis=0)
        for block in blocks:
            entry = likelihood[block.entries]
            if topics:
                given_id, id_entry = _topic_likelihood(block, topic[block.entries], received, total)
                entry = np.column_stack([id_entry, entry])
            chance = (block.others(source[block.entries]) + SOURCE_PRIOR) * entry
            chance /= chance.sum(axis=1, keepdims=True)
            source[block.entries] = chance
            if topics:
                topic[block.entries] = given_id * chance[:, :1]
    explained = np.concatenate([block.client_sum @ source[block.entries] for block in blocks])
    weights = explained + SOURCE_PRIOR
    weights[train.counts < 2] = 1.0
    return weights / weights.sum(axis=1, keepdims=True)


def _topic_likelihood(
    block: _ClientBlock, own: np.ndarray, received: np.ndarray, total: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(the probabilities of the topics [e, T] given that the ID chose the entry, its L [e]).

    Args:
      own: q of the entries, float32 [e, T].
      received: its sums over all clients, float32 [I, T].
      total: those summed over the items, float32 [T].
    """
    theta = block.others(own) + TOPIC_PRIOR
    theta /= theta.sum(axis=1, keepdims=True)
    # Rounding of the large sum can make the difference negative.
    others = np.maximum(received[block.item] - own, 0.0) / block.share
    phi = (others + ITEM_PRIOR) / (total - own + ITEM_PRIOR)
    joint = theta * phi
    chance = joint.sum(axis=1, keepdims=True)
    likelihood = BACKGROUND + (1 - BACKGROUND) * chance[:, 0]
    return joint / chance, np.where(block.alone, 1.0, likelihood)
