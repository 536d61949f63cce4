"""Baselines that ignore histories or use item counts only. One of them is best on some data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines.model import Baseline, Model


def _same_for_all(score: np.ndarray) -> Model:
    """Gives every user the item scores `score` [I]."""
    return lambda history: np.broadcast_to(score, history.shape)


def random(dataset: Dataset) -> np.ndarray:
    """A constant score. All items tie, so its metrics are those of random scores in expectation."""
    return np.zeros(dataset.num_items)


def popularity(dataset: Dataset) -> np.ndarray:
    """The number of users with the item in train."""
    return dataset.train.item_counts


def least_popular(dataset: Dataset) -> np.ndarray:
    """The reverse of `popularity`: items without a train interaction come first."""
    return -dataset.train.item_counts


def ascending_id(dataset: Dataset) -> np.ndarray:
    """The order of the catalogue: the ranking of a constant score if ties break by item id."""
    return -np.arange(dataset.num_items)


def unseen_first(dataset: Dataset) -> np.ndarray:
    """1 for an item without a train interaction, else 0."""
    return dataset.train.item_counts == 0


def _baseline(title: str, score: Callable[[Dataset], np.ndarray], trained: str) -> Baseline:
    def prepare(dataset: Dataset) -> Callable[..., Model]:
        return lambda: _same_for_all(score(dataset))

    return Baseline(title, prepare, trained, personal=False)


TRIVIAL = {
    "random": _baseline("Random order", random, "none"),
    "popularity": _baseline("Popularity", popularity, "federated"),
    "least_popular": _baseline("Least popular first", least_popular, "federated"),
    "ascending_id": _baseline("Ascending item id", ascending_id, "none"),
    "unseen_first": _baseline("Unseen items first", unseen_first, "federated"),
}
