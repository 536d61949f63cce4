"""Attacks on uploads and on trained tables, in NumPy, with the score of a random guess.

The attacker is the server, or a reader of its data. It knows the broadcast and the method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse, stats


class Score(NamedTuple):
    """The accuracy of guessed sets of items, as means over the clients.

    Attributes:
      precision, recall, f1: of the guess.
      chance: F1 of a random set of the same size.
    """

    precision: float
    recall: float
    f1: float
    chance: float


def _along(upload: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows that are not zero, each along the first right singular vector, that vector [d])."""
    touched = np.flatnonzero(np.any(upload != 0, axis=1))
    rows = upload[touched].astype(np.float64)
    vector = np.linalg.eigh(rows.T @ rows)[1][:, -1]
    return touched, rows @ vector, vector


def positives_by_sign(upload: np.ndarray) -> np.ndarray:
    """bool [I]: the positives that follow from the signs of an upload's item rows [I, d].

    The gradient of the row of a positive is -a theta, that of a negative +b theta, with a and b
    above 0 and theta the client's vector. The rows are therefore on one line, and the positives on
    one side of 0. The line is the first right singular vector. The side with fewer rows is the
    history, because there are several negatives per positive.
    """
    touched, along, _ = _along(upload)
    guess = np.zeros(len(upload), bool)
    if not len(touched):
        return guess
    sides = along > 0, along < 0
    sizes = [side.sum() for side in sides]
    smaller = sides[int(np.argmin(sizes))] if all(sizes) else sides[int(np.argmax(sizes))]
    guess[touched[smaller]] = True
    return guess


def positives_by_inversion(upload: np.ndarray) -> np.ndarray:
    """bool [I]: the history of the client whose gradient is nearest to this one [I, d].

    The gradient of one client is c_i theta for item i. While the scores are near 0, all positives
    have one c and all negatives another. The least-squares fit has theta along the first singular
    vector, and the two c are the means of two groups of rows along it. The smaller group has the
    positives. Noise on rows with a small gradient affects this attack less than the sign attack.
    """
    touched, along, _ = _along(upload)
    guess = np.zeros(len(upload), bool)
    if len(touched) < 2:
        return guess
    order = np.argsort(along)
    values, size = along[order], np.arange(1, len(along))
    total, below = values.sum(), np.cumsum(values)[:-1]
    # Between-group sum of squares of each cut.
    between = below**2 / size + (total - below) ** 2 / (len(values) - size)
    cut = int(np.argmax(between)) + 1
    smaller = order[:cut] if cut <= len(order) - cut else order[cut:]
    guess[touched[smaller]] = True
    return guess


class ShadowClient(NamedTuple):
    """The server's knowledge of a client's training.

    Attributes:
      epochs: local epochs. rate: step size of its vector. negatives: per positive.
    """

    epochs: int
    rate: float
    negatives: int


# Of the attack with shadow clients: the share of rows that are positives of the first one, the
# share that keeps its label for the next one, and the number of shadow clients.
FIRST_SHARE, CONFIRMED_SHARE, SHADOWS = 0.2, 0.9, 5


def positives_by_shadow(upload: np.ndarray, items: np.ndarray, client: ShadowClient) -> np.ndarray:
    """bool [I]: positives by the interaction-level attack with a shadow client (Yuan et al. 2023).

    The server labels a random share of the rows [I, d] as positives and trains a shadow client
    on them, from the table that it broadcast. Each row then gets the label whose shadow row is
    nearer. The share CONFIRMED_SHARE with the largest difference keeps its label. The server draws
    the other labels again and trains the next shadow client.

    *choice*: the shadow starts with the vector along which the upload lies, in both directions;
    the published attack draws it. We keep the direction that explains the upload better.
    """
    touched, along, vector = _along(upload)
    guess = np.zeros(len(upload), bool)
    if not len(touched):
        return guess
    known = items[touched].astype(np.float64)
    found = [_shadow_labels(sign * along, sign * vector, known, client) for sign in (1.0, -1.0)]
    guess[touched[min(found, key=lambda each: each[0])[1]]] = True
    return guess


def _shadow_labels(
    along: np.ndarray, vector: np.ndarray, items: np.ndarray, client: ShadowClient
) -> tuple[float, np.ndarray]:
    """(squared distance to the shadow's rows, the labels), its vector in one direction."""
    draws = np.random.default_rng(0)
    positive, left = draws.random(len(along)) < FIRST_SHARE, np.inf
    for iteration in range(SHADOWS):
        inside, outside = _shadow_rows(positive, vector, items, client)
        own = np.where(positive, inside, outside)
        scale = max(float(along @ own) / max(float(own @ own), 1e-30), 0.0)
        distances = np.abs(along - scale * inside), np.abs(along - scale * outside)
        positive = distances[0] < distances[1]
        left = float(np.sum(np.minimum(*distances) ** 2))
        if iteration < SHADOWS - 1:
            clear = np.abs(distances[0] - distances[1])
            unsure = clear < np.quantile(clear, 1 - CONFIRMED_SHARE)
            positive = np.where(unsure, draws.random(len(along)) < positive.mean(), positive)
    return left, positive


def _shadow_rows(
    positive: np.ndarray, vector: np.ndarray, items: np.ndarray, client: ShadowClient
) -> tuple[np.ndarray, np.ndarray]:
    """([T], [T]): the length of every row along the vector, as a positive and as a negative."""
    count = max(int(positive.sum()), 1)
    weight = client.negatives * count / max(len(positive) - count, 1)
    inside, outside = np.zeros((2, len(positive)))
    # As long as a drawn vector, so that the first scores are near 0.
    theta = 0.1 * vector
    for _ in range(client.epochs):
        chance = 1 / (1 + np.exp(-np.clip(items @ theta, -30, 30)))
        inside += chance - 1
        outside += weight * chance
        step = np.where(positive, chance - 1, weight * chance) / (count * (1 + client.negatives))
        theta = theta - client.rate * step @ items
    return inside, outside


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

    Training on a history moves its items towards each other.
    """
    unit = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
    length = np.asarray(histories.sum(axis=1)).reshape(-1)
    pooled = np.linalg.norm(histories @ unit, axis=1) ** 2
    return (pooled - length) / np.maximum(length * (length - 1), 1)


def membership_auc(
    target: np.ndarray, reference: np.ndarray, histories: sparse.csr_array, member: np.ndarray
) -> float:
    """Area under the ROC curve of an attack that infers who took part in training a table.

    Args:
      target: the table [I, d] trained on the members.
      reference: the attacker's shadow table [I, d], trained on all other clients.
      member: bool [N].
    """
    score = coherence(target, histories) - coherence(reference, histories)
    inside, outside = score[member], score[~member]
    statistic = stats.mannwhitneyu(inside, outside).statistic
    return float(statistic / (len(inside) * len(outside)))
