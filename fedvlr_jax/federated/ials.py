"""Implicit alternating least squares by sums over clients, and its mean with an autoencoder.

iALS (Hu et al. 2008) gives each client a vector p and each item a vector q that minimise

    sum over clients and items of c (x - <p, q>)^2 + l2 (sum of |p|^2 + sum of |q|^2),

x = 1 and c = 1 + alpha for the items of a history, x = 0 and c = 1 for all others. In each sweep a
client solves for its own p exactly, from all q (Ammad-ud-din et al. 2019); the server then solves
for each q, from sums over the clients: p p^T of all, and for each item p p^T and p of those that
have it. A client sends (d + 1) d / 2 numbers, and d more than that for each item of its history.

`Blend` is the mean of the scores of an autoencoder and of iALS, each divided by its standard
deviation. Their errors differ, so the mean is often better than either. The deviation is the root
of the mean over clients of the variance over items; each client contributes its two variances.

The sums are taken in float64 on the host; they are the same for every seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.federated.ease import Autoencoder
from fedvlr_jax.least_squares import least_squares

ALPHA = 20.0
SWEEPS = 3


class Setting(NamedTuple):
    """What iALS has in a blend: one of `parts` equal parts of the columns, and l2."""

    parts: int
    l2: float


# Validation chooses among them. Dense histories of many clients bear more factors.
SETTINGS = (Setting(4, 30.0), Setting(2, 30.0), Setting(2, 100.0))


def num_factors(train: Interactions, width: int, parts: int) -> int:
    """The columns of a table of `width` that iALS has in a blend; at most the rank."""
    return min(width // parts, train.num_users, train.num_items)


def item_vectors(train: Interactions, initial: np.ndarray, l2: float) -> np.ndarray:
    """float64 [I, d]: q after SWEEPS sweeps from `initial`; 0 for items without an interaction."""
    histories, items = train.matrix, initial
    by_item = sparse.csr_array(histories.T)
    for _ in range(SWEEPS):
        items = client_vectors(by_item, client_vectors(histories, items, l2), l2)
    return items


def uploaded_numbers(width: int) -> tuple[int, int]:
    """The numbers that a client sends in all sweeps: (for each item of its history, once)."""
    products = width * (width + 1) // 2
    return SWEEPS * (products + width), SWEEPS * products


class Blend(NamedTuple):
    """The mean of the scores of an autoencoder and of iALS.

    Attributes:
      autoencoder: with d_1 directions.
      factors: float64 [I, d_2], q.
      l2: of the clients' problem.
      deviations: of the scores of each.
    """

    autoencoder: Autoencoder
    factors: np.ndarray
    l2: float
    deviations: tuple[float, float]

    @classmethod
    def of(
        cls, autoencoder: Autoencoder, factors: np.ndarray, l2: float, histories: sparse.csr_array
    ) -> Blend:
        """With the deviations of the scores of all histories."""
        deviations = (
            score_deviation(autoencoder.vectors(histories), autoencoder.items),
            score_deviation(client_vectors(histories, factors, l2), factors),
        )
        return cls(autoencoder, factors, l2, deviations)

    @property
    def items(self) -> np.ndarray:
        """float64 [I, d_1 + d_2]: the rows of both, each part with a mean square of 1."""
        parts = (self.autoencoder.items, self.factors)
        return np.hstack([rows / _size(rows) for rows in parts])

    def vectors(self, histories: sparse.csr_array) -> np.ndarray:
        """float64 [C, d_1 + d_2] of each history (float64 CSR [C, I], the weights of its items)."""
        own = client_vectors(histories, self.factors, self.l2)
        parts = (self.autoencoder.vectors(histories), own)
        sizes = (_size(self.autoencoder.items), _size(self.factors))
        scales = np.divide(sizes, self.deviations)
        return np.hstack([rows * scale for rows, scale in zip(parts, scales, strict=True)])


def client_vectors(histories: sparse.csr_array, factors: np.ndarray, l2: float) -> np.ndarray:
    """float64 [C, d]: p of each history, given all q."""
    return least_squares(histories, factors, l2=l2, alpha=ALPHA)


def score_deviation(vectors: np.ndarray, items: np.ndarray) -> float:
    """The root of the mean over clients of the variance over items of the scores; 1 if it is 0."""
    used = items.any(axis=0)
    if not used.all():  # Columns beyond the rank of a wide table.
        vectors, items = vectors[:, used], items[:, used]
    centred = items - np.mean(items, axis=0)
    # With C the covariance of the rows, the sum of v C v^T over the vectors v is that of the
    # products of C and of the vectors' Gram matrix. It takes no array of their size.
    total = np.sum(centred.T @ centred * (vectors.T @ vectors))
    return float(np.sqrt(max(total, 0.0) / (len(items) * len(vectors)))) or 1.0


def _size(rows: np.ndarray) -> float:
    """The root of the mean square; 1 if it is 0."""
    return float(np.sqrt(np.mean(np.square(rows)))) or 1.0
