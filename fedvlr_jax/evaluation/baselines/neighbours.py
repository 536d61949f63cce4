"""Neighbourhood methods: item similarity by users, by content, and by random walks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy import sparse

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.features import centred_unit_rows
from fedvlr_jax.evaluation.baselines.model import Model


def _inverse_power(counts: np.ndarray, power: float) -> np.ndarray:
    """counts^-power, 0 where the count is 0."""
    return np.where(counts > 0, np.maximum(counts, 1.0) ** -power, 0.0)


def item_knn(dataset: Dataset) -> Callable[..., Model]:
    """Item-kNN: similarity of the train columns of two items, summed over the history.

    With X the train matrix and D the diagonal matrix of item counts, the scores of histories H are
    H D^-own X^T X D^-other; own = other = 1/2 is the cosine. All items are neighbours. The product
    is computed from left to right, without an item x item matrix.
    """
    train, counts = dataset.train.matrix, dataset.train.item_counts

    def fit(*, own: float = 0.5, other: float = 0.5) -> Model:
        left = (train * _inverse_power(counts, own)[None, :]).tocsr()
        right = (train * _inverse_power(counts, other)[None, :]).tocsr()
        return lambda history: (history @ left.T @ right).toarray()

    return fit


def rp3beta(dataset: Dataset) -> Callable[..., Model]:
    """RP3beta (Paudel et al. 2016): random walks of three steps, with a penalty on popular items.

    A walk goes from the user to an item of the history, to a user of that item, to an item of that
    user. The method raises each transition probability to the power `alpha`, and divides the score
    of an item by its count to the power `beta`.
    """
    train = dataset.train.matrix
    counts, lengths = dataset.train.item_counts, dataset.train.counts

    def fit(*, alpha: float = 1.0, beta: float = 0.6) -> Model:
        to_users = (train * _inverse_power(counts, alpha)[None, :]).tocsr()
        to_items = sparse.csr_array(train * _inverse_power(lengths, alpha)[:, None])
        to_items = (to_items * _inverse_power(counts, beta)[None, :]).tocsr()
        return lambda history: (history @ to_users.T @ to_items).toarray()

    return fit


def _partly_whitened(rows: np.ndarray) -> Callable[[float], np.ndarray]:
    """Returns a function power -> unit rows [I, d], with each principal axis divided by s^power.

    s is the standard deviation along the axis. The rows are centred first; a row equal to the mean
    becomes 0. Axes without variance are dropped: if all rows are equal, d is 0. Power 0 gives the
    centred rows, up to a rotation.
    """
    unit = centred_unit_rows(rows)
    values, axes = np.linalg.eigh(unit.T @ unit)
    kept = values > 1e-8 * values.max()
    rotated, deviation = unit @ axes[:, kept], np.sqrt(values[kept])

    def whiten(power: float) -> np.ndarray:
        scaled = rotated * (deviation / deviation.max(initial=0.0)) ** -power
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        return scaled / np.where(length > 0, length, 1.0)

    return whiten


def content_knn(dataset: Dataset, modalities: Iterable[str]) -> Callable[..., Model]:
    """Content-kNN: cosine of the features of two items, summed over modalities and the history.

    All items are neighbours. Features are centred first; an item equal to the mean of a modality
    has similarity 0 to all items. `whitening` divides each principal axis by its standard
    deviation to this power; 0 gives the plain cosine.
    """
    features = [dataset.features[name] for name in modalities]
    plain = np.concatenate([centred_unit_rows(rows) for rows in features], axis=1)
    # Filled at the first call that needs it.
    whiteners: list[Callable[[float], np.ndarray]] = []

    def fit(*, whitening: float = 0.0) -> Model:
        if not whitening:
            return lambda history: (history @ plain) @ plain.T
        if not whiteners:
            whiteners.extend(_partly_whitened(rows) for rows in features)
        unit = np.concatenate([whiten(whitening) for whiten in whiteners], axis=1)
        return lambda history: (history @ unit) @ unit.T

    return fit
