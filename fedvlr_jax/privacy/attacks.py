"""Attacks on what leaves the clients, in NumPy. Each is scored beside a guess by chance.

The attacker is the server, or whoever reads what it has: it knows the broadcast and the method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse, stats


class Score(NamedTuple):
    """How well a set of items was guessed, as means over the clients.

    Attributes:
      precision, recall, f1: of the guess.
      chance: F1 of as many items drawn at random.
    """

    precision: float
    recall: float
    f1: float
    chance: float


def positives_by_sign(upload: np.ndarray) -> np.ndarray:
    """bool [I]: the items that the gradient of the item rows [I, d] gives away as positives.

    With the loss of a positive and of a negative item the gradient of a row is -a theta and
    +b theta, a and b above 0 and theta the client's vector. The rows therefore lie along one
    line, positives on one side of 0. The line is the first right singular vector. Of the two
    sides, the history is the one with fewer rows, for there are several negatives a positive.
    """
    touched = np.flatnonzero(np.any(upload != 0, axis=1))
    guess = np.zeros(len(upload), bool)
    if not len(touched):
        return guess
    rows = upload[touched].astype(np.float64)
    along = rows @ np.linalg.eigh(rows.T @ rows)[1][:, -1]
    sides = along > 0, along < 0
    sizes = [side.sum() for side in sides]
    smaller = sides[int(np.argmin(sizes))] if all(sizes) else sides[int(np.argmax(sizes))]
    guess[touched[smaller]] = True
    return guess


def score_of(guess: np.ndarray, histories: sparse.csr_array) -> Score:
    """Scores guesses bool [N, I] of the histories [N, I]."""
    true = histories.toarray() > 0
    hits = np.sum(guess & true, axis=1)
    guessed, length = guess.sum(axis=1), true.sum(axis=1)
    by_chance = guessed * length / guess.shape[1]
    f1 = lambda both: float(np.mean(2 * both / np.maximum(guessed + length, 1)))
    return Score(
        precision=float(np.mean(hits / np.maximum(guessed, 1))),
        recall=float(np.mean(hits / np.maximum(length, 1))),
        f1=f1(hits),
        chance=f1(by_chance),
    )


def coherence(items: np.ndarray, histories: sparse.csr_array) -> np.ndarray:
    """float64 [N]: mean cosine of a client's items in a table [I, d] to the rest of its history.

    A table that was trained on a history has moved its items towards each other.
    """
    unit = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
    length = np.asarray(histories.sum(axis=1)).reshape(-1)
    pooled = np.linalg.norm(histories @ unit, axis=1) ** 2
    return (pooled - length) / np.maximum(length * (length - 1), 1)


def membership_auc(
    target: np.ndarray, reference: np.ndarray, histories: sparse.csr_array, member: np.ndarray
) -> float:
    """Area under the curve of telling the members of a table's training from the others.

    Args:
      target, reference: tables [I, d] trained on the members, and on all the others: the
        attacker's shadow of it.
      member: bool [N].
    """
    score = coherence(target, histories) - coherence(reference, histories)
    inside, outside = score[member], score[~member]
    statistic = stats.mannwhitneyu(inside, outside).statistic
    return float(statistic / (len(inside) * len(outside)))
