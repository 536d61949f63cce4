"""The trivial baselines, kNN and EASE, ranked and measured exactly as a model is.

A headline number means little until it is seen beside these: some data sets are won by
an item order that looks at no user at all. Every score uses train interactions (and
item features) only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.features import centred_unit_rows
from fedvlr_jax.data.pairs import Pairs, chunk_lists, in_part_order
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import summarise, user_metrics
from fedvlr_jax.evaluation.ranking import Ranks, count_ahead
from fedvlr_jax.settings import compiled

# Rows of a slice of users -> scores [B, I]. Scores are computed in float64 and rounded
# to float32 when they are ranked: what is equal but for rounding errors ties.
Scorer = Callable[[slice], np.ndarray]

MASKS = ("train", "train+valid")
EASE_L2 = (1, 3, 10, 30, 100, 300, 1000)
# Beyond so many items a baseline is skipped: item-kNN for its time, EASE for the time
# and the memory of up to items^2 numbers.
LARGEST_CATALOGUE = {"item_knn": 20_000, "ease": 10_000}
# Bytes that the scores of one chunk of users and their companions may take.
CHUNK_BYTES = 1 << 28

_count_ahead = compiled(count_ahead)


class BaselineResults(NamedTuple):
    """What `evaluate_baselines` found, by name of the baseline.

    Attributes:
      summary: {"valid": ..., "test": ...} as `summarise` returns them, and the options
        chosen on validation, such as "l2"; or {"skipped": why}.
      ranks: {"valid": Ranks, "test": Ranks} of all users, for paired tests; a skipped
        baseline is absent.
    """

    summary: dict[str, dict[str, Any]]
    ranks: dict[str, dict[str, Ranks]]


def _same_for_all(dataset: Dataset, score: np.ndarray) -> Scorer:
    """Gives every user the item scores `score` [I]."""
    everyone = np.broadcast_to(score, (dataset.num_users, dataset.num_items))
    return lambda users: everyone[users]


def random(dataset: Dataset) -> Scorer:
    """A constant: the expectation over its ties is, exactly, what random scores earn."""
    return _same_for_all(dataset, np.zeros(dataset.num_items))


def popularity(dataset: Dataset) -> Scorer:
    """How many users have the item in train."""
    return _same_for_all(dataset, dataset.train.item_counts)


def least_popular(dataset: Dataset) -> Scorer:
    """The reverse of popularity: items without a train interaction come first."""
    return _same_for_all(dataset, -dataset.train.item_counts)


def ascending_id(dataset: Dataset) -> Scorer:
    """The order of the catalogue: what a constant score earns where ties break by index."""
    return _same_for_all(dataset, -np.arange(dataset.num_items))


def unseen_first(dataset: Dataset) -> Scorer:
    """1 for an item without a train interaction, else 0."""
    return _same_for_all(dataset, dataset.train.item_counts == 0)


def item_knn(dataset: Dataset, *, recent: bool = False) -> Scorer:
    """Cosine of two items' train columns, summed over the history; all items are neighbours.

    With X the train matrix and D its diagonal of item counts, the scores are
    X (D^-1/2 X^T X D^-1/2). Taken from left to right they need no item x item matrix.

    Args:
      recent: sum over the weighted history, as --recency makes it.
    """
    train = dataset.train.matrix
    history = dataset.train.weighted_matrix if recent else train
    scale = 1 / np.sqrt(np.maximum(dataset.train.item_counts, 1))
    unit = (train * scale[None, :]).tocsr()
    return lambda users: (history[users] @ unit.T @ unit).toarray()


def content_knn(dataset: Dataset, modality: str) -> Scorer:
    """Cosine of two items' features, summed over the history; all items are neighbours.

    Features are centred first (on KU and ML that gains on both modalities); an item at the
    centre has similarity 0 to all.
    """
    unit = centred_unit_rows(dataset.features[modality])
    profile = dataset.train.matrix @ unit
    return lambda users: profile[users] @ unit.T


def ease(dataset: Dataset, l2: float, *, recent: bool = False) -> Scorer:
    """The closed-form linear autoencoder of Steck (2019), arXiv 1905.03375, eq. 8.

    Scores X B with B = I - P diag(P)^-1 and P = (X^T X + l2 I)^-1. With fewer users than
    items the smaller system is inverted instead: X P = (X X^T + l2 I)^-1 X.

    Args:
      recent: score the weighted histories W B, as --recency makes them. B is learned from X.
    """
    train = dataset.train.matrix
    history = dataset.train.weighted_matrix if recent else train
    if dataset.num_users < dataset.num_items:
        gram = (train @ train.T).toarray()
        product = np.linalg.inv(gram + l2 * np.eye(len(gram))) @ train
        diagonal = (1 - (train * product).sum(axis=0)) / l2
        if recent:
            # W P with P = (I - X^T (X X^T + l2 I)^-1 X) / l2.
            product = (history.toarray() - (history @ train.T) @ product) / l2
        return lambda users: history[users].toarray() - product[users] / diagonal
    gram = (train.T @ train).toarray()
    inverse = np.linalg.inv(gram + l2 * np.eye(len(gram)))
    return lambda users: history[users].toarray() - history[users] @ inverse / inverse.diagonal()


# Beside these: "content_knn_<modality>" of every modality, "ease" at its best l2, and where
# --recency weighs the histories "item_knn_recent" and "ease_recent".
BASELINES: dict[str, Callable[[Dataset], Scorer]] = {
    "random": random,
    "popularity": popularity,
    "least_popular": least_popular,
    "ascending_id": ascending_id,
    "unseen_first": unseen_first,
    "item_knn": item_knn,
}


def rank(scorer: Scorer, dataset: Dataset, part: str, mask: str = "train+valid") -> Ranks:
    """Ranks every user's held-out items of `part` among all items, in chunks of users.

    Args:
      part: "valid" or "test".
      mask: what is no candidate at test: "train" or "train+valid". At validation it is
        always train.

    Returns:
      `Ranks` of NumPy arrays: ahead, tied [P] in the order of the part, finite [N].

    Raises:
      InputError: an unknown mask, or a score that is not finite.
    """
    if mask not in MASKS:
        raise InputError(f"mask: found {mask!r}, expected one of {list(MASKS)}")
    held_out: Interactions = getattr(dataset, part)
    hidden = dataset.train.matrix
    if part == "test" and mask == "train+valid":
        hidden = hidden + dataset.valid.matrix
    chunk = max(1, CHUNK_BYTES // (24 * dataset.num_items))
    bounds = np.append(np.arange(0, dataset.num_users, chunk), dataset.num_users)
    (targets,) = chunk_lists([held_out], np.arange(dataset.num_users), bounds)
    chunks = []
    for number, users in enumerate(map(slice, bounds[:-1], bounds[1:])):
        scores = np.asarray(scorer(users), np.float32)
        masked = hidden[users].toarray() > 0
        own = Pairs(*(array[number] for array in targets.pairs))
        chunks.append(jax.device_get(_count_ahead(scores, own, masked)))
    finite = np.concatenate([ranks.finite for ranks in chunks])
    if not finite.all():
        raise InputError(
            f"{dataset.name}: the baseline's scores of user {int(np.argmin(finite))} are "
            "not finite; check that all item features are"
        )
    ahead, tied = (
        in_part_order(targets.entry, [getattr(ranks, name) for ranks in chunks], len(held_out))
        for name in ("ahead", "tied")
    )
    return Ranks(ahead, tied, finite)


def _best_l2(dataset: Dataset, make: Callable[[Dataset, int], Scorer]) -> int:
    """The l2 of `EASE_L2` with the best validation NDCG@50; the smaller one if equal."""

    def ndcg(l2: int) -> float:
        found = rank(make(dataset, l2), dataset, "valid")
        values = user_metrics(found.ahead, found.tied, dataset.valid, ks=(50,))["ndcg@50"]
        return float(np.nan_to_num(values).sum())

    return max(EASE_L2, key=ndcg)


def evaluate_baselines(
    dataset: Dataset, mask: str = "train+valid", ks: tuple[int, ...] = (10, 20, 50)
) -> BaselineResults:
    """Ranks and measures every baseline on validation and test, under the protocol.

    Args:
      mask: "train" or "train+valid", see `rank`.
      ks: the cut-offs; they must hold 50.

    Raises:
      InputError: an unknown mask, or item features that are not finite.
    """
    scorers: dict[str, Callable[..., Scorer]] = dict(BASELINES)
    for modality in dataset.features:
        scorers[f"content_knn_{modality}"] = functools.partial(content_knn, modality=modality)
    scorers["ease"] = ease
    if dataset.train.weight is not None:
        scorers["item_knn_recent"] = functools.partial(item_knn, recent=True)
        scorers["ease_recent"] = functools.partial(ease, recent=True)
    results = BaselineResults({}, {})
    for name, make in scorers.items():
        largest = LARGEST_CATALOGUE.get(name.removesuffix("_recent"), dataset.num_items)
        if dataset.num_items > largest:
            why = f"{dataset.num_items} items; {name} is evaluated up to {largest}"
            results.summary[name] = {"skipped": why}
            continue
        options: Mapping[str, Any] = (
            {"l2": _best_l2(dataset, make)} if name.startswith("ease") else {}
        )
        scorer = make(dataset, **options)
        ranks = {part: rank(scorer, dataset, part, mask) for part in ("valid", "test")}
        summaries = {
            part: summarise(found.ahead, found.tied, dataset, part, ks)
            for part, found in ranks.items()
        }
        results.summary[name] = {**summaries, **options}
        results.ranks[name] = ranks
    return results
