"""A low-rank linear autoencoder of histories and features, in closed form, by sums over clients.

EASE (Steck 2019) scores item j for a history by sum over i in O of B_ij, B = I - P diag(P)^-1 and
P = (M + l I)^-1, M = X^T X the co-occurrences of items. Here the features count as more rows,

    M = X^T X + c m sum over modalities of F F^T,

with rows of F centred and scaled to unit length, and m the mean number of clients of an item. Items
without an interaction are therefore scored by their content. With the eigenvectors V and
eigenvalues s of M and f = s / (s + l), P is (I - V f V^T) / l, and for items outside O

    score_j = <D_j, theta>,  D_j = sqrt(f) V_j / (1 - h_j),  theta = sqrt(f) V^T w,
    h_j = sum over k of f_k V_jk^2,

w the client's history, its items weighted by their age if recency is above 0. Only the d largest
s are kept: for d = I this is EASE, and a smaller d regularises further.

The normalization v, 0 or 1/4, reduces the weight of long histories and of popular items, as random
walks (RP3beta) do. The row of client u in M has the weight n_u^(-2v), n_u the length of the
history. The ridge of item j is l_j = l (M_jj / mean of M_ii)^(2v). With L = diag(l / l_j)^(1/2), V
and s are those of L M L, theta has L w in place of w, and D_j is divided by L_j. Finally D_j is
divided by (1 + c_j)^v, c_j the number of clients of item j.

V is found by subspace iteration, see `initialization.py`. A client answers with
n_u^(-2v) x (x V), which has rows for its own items only; the server needs the sum of the answers,
and adds c m F (F^T V), which it computes itself. The ridge l is `ridge` times the mean of the
diagonal of M, which the server knows from the counts of the items, and for v above 0 from the sums
of n_u^(-2v) x.

The content weight c, the normalization and the recency are chosen on validation. For each setting a
client ranks its own validation items and contributes the difference of its NDCG@50 from that of the
first setting, and the square of it, to two sums. The first setting is the plainest. The best
setting replaces it only if its gain exceeds some standard errors: validation splits are small, and
of many settings one is always ahead by chance. First the content weight is chosen for v = 0, then
recency, then the content weight again if recency is above 0. Last, the pairs of content weight and
v = 1/4 must be ahead of that choice.

Here the sums are taken in float64 on the host; they are the same for every seed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.features import centred_unit_rows
from fedvlr_jax.evaluation.metrics import user_metrics
from fedvlr_jax.federated.subspace import OVERSAMPLING, leading

CONTENTS = (0.0, 0.25, 1.0, 4.0)
NORMALIZATIONS = (0.0, 0.25)
RECENCIES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Standard errors by which a setting must be ahead of the first one. Recency needs more: gains of
# its settings on small validation splits did not carry over to test.
MODEL_SURE = 1.0
RECENCY_SURE = 2.0
# The content weight of data with features and without a validation split.
UNSEEN_CONTENT = 0.25
# Smallest diagonal of M that enters the ridge of an item, relative to the mean.
LEAST_DIAGONAL = 1e-3
# Upper bounds on the clients that rank their validation items, and on scores held at once.
MOST_RANKING = 10_000
SCORES_AT_ONCE = 1 << 24


class Autoencoder(NamedTuple):
    """L sqrt(f) V, which maps a history, and the factor that makes D of it; float64 [I, d], [I, 1].

    Columns beyond the number of positive eigenvalues are 0.
    """

    encoder: np.ndarray
    factor: np.ndarray

    @property
    def items(self) -> np.ndarray:
        """float64 [I, d]: D of the module's docstring."""
        return self.encoder * self.factor


class Ease(NamedTuple):
    """The initialization, and the settings chosen for it.

    Attributes:
      items: float64 [I, d]. vectors: float64 [N, d].
      content, normalization, recency: c, v, and the exponent by which the histories are weighted.
    """

    items: np.ndarray
    vectors: np.ndarray
    content: float
    normalization: float
    recency: float


def ease_initialization(
    dataset: Dataset,
    width: int,
    *,
    ridge: float,
    exchanges: int,
    content: float | None,
    normalization: float | None,
    recency: float | None,
) -> Ease:
    """The items' table and the clients' vectors.

    Args:
      content, normalization, recency: see the module's docstring; None to choose on the validation
        split. A history that has weights already keeps them; `recency` must then be 0 or None.
    """
    train, rows = dataset.train, [centred_unit_rows(x) for x in dataset.features.values()]
    settings = tried_models(dataset, content, normalization)
    models = [
        autoencoder(
            train, rows, width, content=c, normalization=v, ridge=ridge, exchanges=exchanges
        )
        for v, c in settings
    ]
    recencies = tried_recencies(dataset, recency)
    histories = [train.weighted_by_recency(r) if r else train for r in recencies]
    targets = _ranking(dataset)
    gains = functools.cache(lambda m, h: _gains(models[m], histories[h], targets))

    def select(tried: Sequence[int], history: int) -> int:
        if len(tried) == 1:
            return tried[0]
        return tried[_chosen([gains(m, history) for m in tried], MODEL_SURE)]

    plain = [m for m, (v, _) in enumerate(settings) if v == settings[0][0]]
    best, chosen = select(plain, 0), 0
    if len(histories) > 1:
        chosen = _chosen([gains(best, h) for h in range(len(histories))], RECENCY_SURE)
    if chosen:
        best = select(plain, chosen)
    best = select([best, *range(len(plain), len(models))], chosen)
    vectors = histories[chosen].weighted_matrix @ models[best].encoder
    selected_v, selected_c = settings[best]
    return Ease(models[best].items, vectors, selected_c, selected_v, recencies[chosen])


def tried_models(
    dataset: Dataset, content: float | None, normalization: float | None
) -> list[tuple[float, float]]:
    """The pairs (normalization, content weight) that validation chooses among, plainest first."""
    judged = len(_ranking(dataset)) > 0
    normalizations = NORMALIZATIONS if judged else NORMALIZATIONS[:1]
    contents = CONTENTS if judged else (UNSEEN_CONTENT,)
    if not dataset.features:
        contents = (0.0,)
    elif content is not None:
        contents = (content,)
    if normalization is not None:
        normalizations = (normalization,)
    return list(itertools.product(normalizations, contents))


def tried_recencies(dataset: Dataset, recency: float | None) -> tuple[float, ...]:
    """As `tried_models`, for recency: only 0 if all times are equal or histories are weighted."""
    train = dataset.train
    if recency is not None:
        return (recency,)
    if train.weight is not None or not len(_ranking(dataset)) or np.ptp(train.time) == 0:
        return (0.0,)
    return RECENCIES


def autoencoder(
    train: Interactions,
    features: Sequence[np.ndarray],
    width: int,
    *,
    content: float,
    normalization: float,
    ridge: float,
    exchanges: int,
) -> Autoencoder:
    """The d largest directions of L M L.

    Args:
      features: float64 [I, d_m] of each modality, centred, at unit length or 0.
    """
    histories = train.matrix
    counted = np.maximum(train.counts, 1.0) ** (-2 * normalization)
    sums = histories.T @ counted
    scale = content * np.mean(sums)
    diagonal = sums + sum(scale * np.sum(np.square(rows), axis=1) for rows in features)
    mean = np.mean(diagonal)
    root = np.maximum(diagonal / mean, LEAST_DIAGONAL)[:, None] ** -normalization
    # A modality adds at most its width to the rank; no eigenvalue beyond the rank is positive.
    rank = train.num_users + (sum(rows.shape[1] for rows in features) if scale else 0)
    columns = min(width + OVERSAMPLING, rank, train.num_items)

    def exchanged(basis: np.ndarray) -> np.ndarray:
        scaled = root * basis
        total = histories.T @ (counted[:, None] * (histories @ scaled))
        for rows in features if scale else ():
            total += scale * (rows @ (rows.T @ scaled))
        return root * total

    eigenvalues, directions = leading(
        exchanged, train.num_items, columns, exchanges=exchanges, width=width
    )
    kept = eigenvalues / (eigenvalues + ridge * mean + 1e-12 * eigenvalues[0])
    projected = directions * np.sqrt(kept)
    # Exact zeros, where the exchanges leave rounding errors: items without data tie.
    described = np.zeros(train.num_items, bool)
    for rows in features if scale else ():
        described |= rows.any(axis=1)
    projected[(train.item_counts == 0) & ~described] = 0.0
    outside = 1 - np.sum(np.square(projected), axis=1, keepdims=True)
    popular = (1.0 + train.item_counts)[:, None] ** normalization
    missing = ((0, 0), (0, width - len(kept)))
    return Autoencoder(np.pad(root * projected, missing), 1 / (np.square(root) * outside * popular))


def _ranking(dataset: Dataset) -> Interactions:
    """Warm validation items of at most MOST_RANKING clients, evenly spaced; [N] rows."""
    valid = dataset.valid
    warm = dataset.train.item_counts[valid.item] > 0
    holders = np.unique(valid.users[warm])
    if len(holders) > MOST_RANKING:
        holders = holders[np.linspace(0, len(holders) - 1, MOST_RANKING).astype(int)]
    chosen = warm & np.isin(valid.users, holders)
    return Interactions.from_pairs(
        user=valid.users[chosen],
        item=valid.item[chosen],
        num_users=valid.num_users,
        num_items=valid.num_items,
    )


def _gains(model: Autoencoder, history: Interactions, targets: Interactions) -> np.ndarray:
    """NDCG@50 [C] of every client that has an item in `targets`; train items are masked."""
    weights, own = history.weighted_matrix, history.matrix
    holders = np.flatnonzero(targets.counts)
    ahead, tied = np.zeros((2, len(targets)), np.int64)
    step = max(1, SCORES_AT_ONCE // targets.num_items)
    for clients in np.split(holders, np.arange(step, len(holders), step)):
        scores = ((weights[clients] @ model.encoder) @ model.items.T).astype(np.float32)
        scores[own[clients].toarray() > 0] = np.nan
        for row, client in zip(scores, clients, strict=True):
            places = slice(targets.indptr[client], targets.indptr[client + 1])
            own_scores = row[targets.item[places]][:, None]
            ahead[places] = np.sum(row > own_scores, axis=1)
            tied[places] = np.sum(row == own_scores, axis=1) - 1
    return user_metrics(ahead, tied, targets, ks=(50,))["ndcg@50"][holders]


def _chosen(gains: Sequence[np.ndarray], sure: float) -> int:
    """The number of the best setting; 0 if it is not `sure` standard errors ahead of the first.

    Args:
      gains: of each setting, the NDCG@50 [C] of the clients that rank.
    """
    best = int(np.argmax([np.mean(setting) for setting in gains]))
    ahead = gains[best] - gains[0]
    error = np.std(ahead, ddof=1) / np.sqrt(len(ahead)) if len(ahead) > 1 else np.inf
    return best if np.mean(ahead) > sure * error else 0
