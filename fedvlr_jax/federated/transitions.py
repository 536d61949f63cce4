"""Where a history leads: a linear step from a client's recent items to its next one, by sums.

Closed forms such as EASE and iALS do not see the order of a history. Here the server first scales
the items' table Q so that its columns are uncorrelated over all interactions: rows P = Q W with
P^T diag(c) P = I, c the number of clients of each item. With the state z of a history up to some
moment,

    z = sum over its items i of 0.9^age_i P_i,  age_i the number of newer items,

ridge regression predicts the row of the next item from z: A = (S + r I)^-1 T, where

    S = sum of z z^T,  T = sum of z P_j^T   over all items j of all clients, z the state before j,

and r is 10 times the mean diagonal of S, so A is close to a multiple of T. A client contributes
its own terms of S and T, once. Its score of an item is then <P_j, A^T z>, which is <Q_j, W A^T z>:
the step changes its vector alone, and the table stays as it is. Linear models of transitions with
all pairs of items are SLIT (Choi et al. 2021); FPMC (Rendle et al. 2010) factorizes them.

Items of equal time have no order: none is before the other, and their age is the same.

The sums are taken in float64 on the host; they are the same for every seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.runs import runs_in_order
from fedvlr_jax.federated.ials import score_deviation

# The weight of an item in a state, for each newer item.
DECAY = 0.9
# Relative to the mean diagonal of S.
RIDGE = 10.0
# A direction of the table that has less than this share of the largest one's variance is left out.
LEAST_VARIANCE = 1e-9
CLIENTS_AT_ONCE = 4096


def next_vectors(train: Interactions, items: np.ndarray) -> np.ndarray:
    """float64 [N, d]: what the step adds to each client's vector; 0 for an empty history.

    The scores have a deviation of 1, see `score_deviation`. All are 0 if no client has items of
    two different times.

    Args:
      items: float64 [I, d], the table Q.
    """
    scaling = _scaling(items, train.item_counts)
    rows = items @ scaling
    before, following = np.zeros((2, rows.shape[1], rows.shape[1]))
    states = np.zeros((train.num_users, rows.shape[1]))
    for clients in _clients(train.num_users):
        own = states[clients]
        for run in runs_in_order(train.of_users(clients)):
            sums, state = run.items @ rows, own[run.users]
            before += (state * run.length).T @ state
            following += state.T @ sums
            own[run.users] = DECAY**run.length * state + DECAY ** ((run.length - 1) / 2) * sums
        states[clients] = own
    size = np.trace(before)
    if size == 0:
        return np.zeros((train.num_users, items.shape[1]))
    ridge = RIDGE * size / len(before) * np.eye(len(before))
    vectors = states @ (np.linalg.solve(before + ridge, following) @ scaling.T)
    vectors /= score_deviation(vectors, items)
    return vectors


def uploaded_numbers(width: int) -> int:
    """The numbers that a client sends: the upper triangle of its part of S, and of T all."""
    return width * (width + 1) // 2 + width * width


def _scaling(items: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """W [d, k]: the columns of `items` @ W are orthonormal, item j counted `counts`[j] times."""
    used = items.any(axis=0)  # Not the columns beyond the rank of a wide table.
    rows = items[:, used]
    variances, axes = np.linalg.eigh(rows.T @ (rows * counts[:, None]))
    kept = variances > LEAST_VARIANCE * variances.max(initial=0.0)
    scaling = np.zeros((items.shape[1], np.sum(kept)))
    scaling[used] = axes[:, kept] / np.sqrt(variances[kept])
    return scaling


def _clients(number: int) -> Iterator[np.ndarray]:
    for first in range(0, number, CLIENTS_AT_ONCE):
        yield np.arange(first, min(first + CLIENTS_AT_ONCE, number))
