"""Selects the settings of --init=ease on validation, and computes its table and vectors.

For each setting a client ranks its own validation items and contributes the difference of its
NDCG@50 from that of the first setting, and the square of it, to two sums. The first setting is the
plainest. The best setting replaces it only if its gain exceeds some standard errors: validation
splits are small, and of many settings one is always ahead by chance.

First the content weight is chosen for the normalization v = 0, then recency, then the content
weight again if recency is above 0. Next, the pairs of content weight and v = 1/4 must be ahead of
that choice; `ease.py` explains these settings. Then the best blend with iALS must be ahead of the
autoencoder alone: iALS has a quarter or a half of the columns, see `ials.py`. Last, the step from
a client's recent items to its next one, with the best weight, must be ahead of none: see
`transitions.py`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from fedvlr_jax.config import InitConfig
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.features import centred_unit_rows
from fedvlr_jax.evaluation.metrics import user_metrics
from fedvlr_jax.federated.ease import Autoencoder, autoencoder
from fedvlr_jax.federated.ials import (
    SETTINGS,
    Blend,
    Setting,
    item_vectors,
    num_factors,
    score_deviation,
)
from fedvlr_jax.federated.transitions import next_vectors

CONTENTS = (0.0, 0.25, 1.0, 4.0)
NORMALIZATIONS = (0.0, 0.25)
RECENCIES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Weights of the scores of the next items; all other scores have the weight 1.
TRANSITIONS = (0.0, 0.25, 0.5, 1.0)
# Standard errors by which a setting must be ahead of the first one. Recency needs more: gains of
# its settings on small validation splits did not carry over to test.
MODEL_SURE = 1.0
RECENCY_SURE = 2.0
IALS_SURE = 0.5
TRANSITIONS_SURE = 0.5
# The content weight of data with features and without a validation split.
UNSEEN_CONTENT = 0.25
# Upper bounds on the clients that rank their validation items, and on scores held at once.
MOST_RANKING = 10_000
SCORES_AT_ONCE = 1 << 22


class Wanted(NamedTuple):
    """The settings that are given; None: validation chooses.

    Attributes:
      ridge: relative to the mean diagonal. exchanges: of each model that is tried.
      content, normalization, recency: see the module's docstring. A history that has weights
        already keeps them; `recency` must then be 0 or None.
      ials: whether the scores are the mean with those of iALS. Validation also chooses the setting
        of iALS. True needs a width of at least 4.
      transitions: the weight of the scores of the next items.
    """

    ridge: float
    exchanges: int
    content: float | None = None
    normalization: float | None = None
    recency: float | None = None
    ials: bool | None = None
    transitions: float | None = None

    @classmethod
    def of(cls, init: InitConfig) -> Wanted:
        """The settings of the flags, where -1 stands for None."""
        chosen = lambda value: None if value == -1 else value
        return cls(
            ridge=init.init_ridge,
            exchanges=init.init_exchanges,
            content=chosen(init.init_content),
            normalization=chosen(init.init_normalization),
            recency=chosen(init.init_recency),
            ials=None if init.init_ials == -1 else bool(init.init_ials),
            transitions=chosen(init.init_transitions),
        )


class Ease(NamedTuple):
    """The initialization, and the settings chosen for it.

    Attributes:
      items: float64 [I, d]. vectors: float64 [N, d].
      content, normalization, recency: c, v, and the exponent by which the histories are weighted.
      ials: the setting of iALS, if the scores are the mean with its scores; else None.
      transitions: the weight of the scores of the next items, see `transitions.py`.
    """

    items: np.ndarray
    vectors: np.ndarray
    content: float
    normalization: float
    recency: float
    ials: Setting | None
    transitions: float


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Most products here are small. BLAS threads that wait for each other on a busy machine take
    several times as long, and the rounding would depend on their number.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@_one_blas_thread()
def ease_initialization(dataset: Dataset, width: int, wanted: Wanted) -> Ease:
    """The items' table and the clients' vectors."""
    ridge, exchanges, content, normalization, recency, ials, transitions = wanted
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
    history, model = histories[chosen], models[best]
    sources: list[tuple[Setting | None, Autoencoder | Blend]] = [] if ials else [(None, model)]
    sources += [
        (setting, blend_of(model, models[0], history, setting))
        for setting in tried_ials(dataset, width, ials)
    ]
    number = 0
    if len(sources) > 1:
        found = [
            gains(best, chosen) if each is model else _gains(each, history, targets)
            for _, each in sources
        ]
        number = _chosen(found, IALS_SURE)
    taken, source = sources[number]
    items, vectors = source.items, source.vectors(history.weighted_matrix)
    weights = tried_transitions(dataset, transitions)
    weight, vectors = _with_transitions(train, items, vectors, weights, targets)
    selected_v, selected_c = settings[best]
    return Ease(items, vectors, selected_c, selected_v, recencies[chosen], taken, weight)


def _with_transitions(
    train: Interactions,
    items: np.ndarray,
    vectors: np.ndarray,
    weights: Sequence[float],
    targets: Interactions,
) -> tuple[float, np.ndarray]:
    """The best of the weights of the next items, and the vectors [N, d] with it."""
    if not any(weights):
        return 0.0, vectors
    following = next_vectors(train, items)
    following *= score_deviation(vectors, items)
    holders = np.flatnonzero(targets.counts)
    best = 0
    if len(weights) > 1:
        own, mine, theirs = train.matrix, vectors[holders], following[holders]
        gains = [_ndcg(items, mine + weight * theirs, own, targets) for weight in weights]
        best = _chosen(gains, TRANSITIONS_SURE)
    following *= weights[best]
    return weights[best], vectors + following


def blend_of(
    selected: Autoencoder, first: Autoencoder, history: Interactions, setting: Setting
) -> Blend:
    """As wide as `selected`; iALS begins with the largest directions of `first`."""
    width = selected.directions.shape[1]
    columns = num_factors(history, width, setting.parts)
    factors = item_vectors(history, first.truncated(columns).balanced, setting.l2)
    remaining = selected.truncated(width - columns)
    return Blend.of(remaining, factors, setting.l2, history.weighted_matrix)


def tried_ials(dataset: Dataset, width: int, ials: bool | None) -> Sequence[Setting]:
    """The settings whose blends are computed: one is asked for, or validation can choose them."""
    judged = _is_judged(dataset)
    if ials is None:
        return SETTINGS if judged and width >= 4 else ()
    return (SETTINGS if judged else SETTINGS[:1]) if ials else ()


def tried_models(
    dataset: Dataset, content: float | None, normalization: float | None
) -> list[tuple[float, float]]:
    """The pairs (normalization, content weight) that validation chooses among, plainest first."""
    judged = _is_judged(dataset)
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
    if train.weight is not None or not _is_judged(dataset) or not train.has_times:
        return (0.0,)
    return RECENCIES


def tried_transitions(dataset: Dataset, transitions: float | None) -> tuple[float, ...]:
    """As `tried_models`, for the next items: only 0 if all times are equal."""
    if transitions is not None:
        return (transitions,)
    if not _is_judged(dataset) or not dataset.train.has_times:
        return (0.0,)
    return TRANSITIONS


def _is_judged(dataset: Dataset) -> bool:
    """Whether `_ranking` has an item."""
    return bool(np.any(dataset.train.item_counts[dataset.valid.item] > 0))


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


def _gains(model: Autoencoder | Blend, history: Interactions, targets: Interactions) -> np.ndarray:
    """`_ndcg` of a model."""
    vectors = model.vectors(history.weighted_matrix[np.flatnonzero(targets.counts)])
    return _ndcg(model.items, vectors, history.matrix, targets)


def _ndcg(
    items: np.ndarray, vectors: np.ndarray, own: sparse.csr_array, targets: Interactions
) -> np.ndarray:
    """NDCG@50 [C] of every client that has an item in `targets`; train items are masked.

    Args:
      vectors: [C, d], of these clients.
      own: [N, I], the train items of all clients.
    """
    holders = np.flatnonzero(targets.counts)
    ahead, tied = np.zeros((2, len(targets)), np.int64)
    step = max(1, SCORES_AT_ONCE // targets.num_items)
    for first in range(0, len(holders), step):
        clients = holders[first : first + step]
        scores = (vectors[first : first + step] @ items.T).astype(np.float32)
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
