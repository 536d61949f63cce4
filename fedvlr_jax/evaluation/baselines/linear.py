"""Linear models of items in closed form: EASE, with and without features, and transitions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse

from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.features import centred_unit_rows
from fedvlr_jax.evaluation.baselines.model import Model

# Number of principal axes of each modality that EASE + content keeps. Each axis costs as much time
# as one more user.
CONTENT_AXES = 128
# Smaller weights of one item before another are left out.
LEAST_WEIGHT = 1e-3


def _from_items(gram: np.ndarray, l2: float) -> Model:
    """EASE (Steck 2019, arXiv 1905.03375, eq. 8) from the Gram matrix of the items, R^T R [I, I].

    The scores of a history h are h B with B = I - P diag(P)^-1 and P = (R^T R + l2 I)^-1: ridge
    regression of each column of R on the other columns.
    """
    inverse = np.linalg.inv(gram + l2 * np.eye(len(gram)))
    diagonal = inverse.diagonal()
    return lambda history: history.toarray() - history @ inverse / diagonal


def _from_rows(rows: Any, l2: float) -> Model:
    """As `_from_items`, from the sparse or dense R itself [R, I]; faster if R < I.

    By the Woodbury identity, P = (I - R^T (R R^T + l2 I)^-1 R) / l2: the inverse is R x R.
    """
    gram = rows @ rows.T
    gram = gram.toarray() if sparse.issparse(gram) else gram
    product = np.linalg.inv(gram + l2 * np.eye(len(gram))) @ rows
    diagonal = (1 - (rows * product).sum(axis=0)) / l2

    def model(history: sparse.csr_array) -> np.ndarray:
        entries = history.toarray()
        return entries - (entries - (history @ rows.T) @ product) / (l2 * diagonal)

    return model


def ease(dataset: Dataset) -> Callable[..., Model]:
    """EASE: ridge regression of each item on the other items; the users are the samples."""
    train = dataset.train.matrix
    if dataset.num_users < dataset.num_items:
        return lambda *, l2=100: _from_rows(train, l2)
    gram = (train.T @ train).toarray()
    return lambda *, l2=100: _from_items(gram, l2)


def ease_content(dataset: Dataset) -> Callable[..., Model]:
    """EASE + content: ridge regression of each item on the others, over users and features.

    EASE on X^T X + c F F^T. The rows of F are the centred unit features of the items, projected on
    the leading principal axes of each modality and concatenated. c is `content_weight` times the
    mean item count. An item without train interactions gets its score from similar items.
    """
    train = dataset.train.matrix
    features = np.concatenate([_leading(rows) for rows in dataset.features.values()], axis=1)
    mean_count = len(dataset.train) / dataset.num_items
    if dataset.num_users + features.shape[1] < dataset.num_items:
        entries = train.toarray()

        def fit_rows(*, l2: float = 100, content_weight: float = 1.0) -> Model:
            scale = np.sqrt(content_weight * mean_count)
            return _from_rows(np.concatenate([entries, scale * features.T]), l2)

        return fit_rows
    gram, similarity = (train.T @ train).toarray(), features @ features.T
    return lambda *, l2=100, content_weight=1.0: _from_items(
        gram + content_weight * mean_count * similarity, l2
    )


def transitions(dataset: Dataset) -> Callable[..., Model]:
    """Linear transitions: ridge regression of the items that follow on each item of a history.

    The scores of a history h, its items weighted by decay^age, are h B with
    B = (X^T X + l2 I)^-1 T. T_ij sums decay^(d - 1) over the users who have item i d items before
    item j; items of equal time have no order. A form of SLIT (Choi et al. 2021).
    """
    train = dataset.train.matrix
    counted = functools.cache(functools.partial(_followers, dataset.train))
    few_users = dataset.num_users < dataset.num_items
    gram = (train @ train.T if few_users else train.T @ train).toarray()

    def fit(*, l2: float = 1000, decay: float = 0.7) -> Model:
        ridge, following = l2 * np.eye(len(gram)), counted(decay)
        if not few_users:
            solved = np.linalg.solve(gram + ridge, following.toarray())
            return lambda history: history @ solved
        # By the Woodbury identity, as in `_from_rows`.
        product = np.linalg.solve(gram + ridge, (train @ following).toarray())
        return lambda history: (
            ((history @ following).toarray() - (history @ train.T) @ product) / l2
        )

    return fit


def _followers(train: Interactions, decay: float) -> sparse.csr_array:
    """T [I, I] of `transitions`."""
    order = train.oldest_first
    user, item, age = train.users[order], train.item[order], train.age[order]
    total = sparse.csr_array((train.num_items, train.num_items))
    for lag in range(1, len(order)):
        # Two items of different times that are `lag` places apart differ by half of it in age.
        if decay ** ((lag + 1) / 2 - 1) < LEAST_WEIGHT:
            break
        apart = age[:-lag] - age[lag:]
        pair = np.flatnonzero((user[:-lag] == user[lag:]) & (apart > 0))
        weight = decay ** (apart[pair] - 1)
        total = total + sparse.csr_array((weight, (item[pair], item[pair + lag])), total.shape)
    return total


def _leading(rows: np.ndarray) -> np.ndarray:
    """float64 [I, <= CONTENT_AXES]: the centred unit rows on their leading principal axes."""
    unit = centred_unit_rows(rows)
    _, axes = np.linalg.eigh(unit.T @ unit)
    return unit @ axes[:, -CONTENT_AXES:]
