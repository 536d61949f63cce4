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

The sums are taken in float64 on the host; they are the same for every seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.federated.subspace import OVERSAMPLING, leading

# Smallest diagonal of M that enters the ridge of an item, relative to the mean.
LEAST_DIAGONAL = 1e-3


class Autoencoder(NamedTuple):
    """The directions of `autoencoder`, and what turns them into scores; all float64.

    Attributes:
      directions: [I, d], V. Rows of items without data are 0, and so are columns beyond the rank.
      eigenvalues: [d], s, descending.
      ridge: l.
      root: [I, 1], the diagonal of L.
      popular: [I, 1], (1 + c_j)^v.
    """

    directions: np.ndarray
    eigenvalues: np.ndarray
    ridge: float
    root: np.ndarray
    popular: np.ndarray

    @property
    def projected(self) -> np.ndarray:
        """[I, d]: sqrt(f) V."""
        spread = self.eigenvalues + self.ridge + 1e-12 * self.eigenvalues[0]
        return self.directions * np.sqrt(self.eigenvalues / spread)

    @property
    def items(self) -> np.ndarray:
        """[I, d]: D of the module's docstring."""
        projected = self.projected
        outside = 1 - np.sum(np.square(projected), axis=1, keepdims=True)
        return self.root * projected / (np.square(self.root) * outside * self.popular)

    def vectors(self, histories: sparse.csr_array) -> np.ndarray:
        """[C, d]: theta of each history (float64 CSR [C, I], the weights of its items)."""
        return histories @ (self.root * self.projected)

    @property
    def balanced(self) -> np.ndarray:
        """[I, d]: V s^(1/4), the items' half of the truncated singular value decomposition."""
        return self.directions * self.eigenvalues**0.25

    def truncated(self, width: int) -> Autoencoder:
        """The autoencoder of the `width` largest eigenvalues."""
        return self._replace(
            directions=self.directions[:, :width], eigenvalues=self.eigenvalues[:width]
        )


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
    """The `width` largest eigenvalues of L M L, and their directions.

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
    # Exact zeros, where the exchanges leave rounding errors: items without data tie.
    described = np.zeros(train.num_items, bool)
    for rows in features if scale else ():
        described |= rows.any(axis=1)
    directions[(train.item_counts == 0) & ~described] = 0.0
    missing = width - len(eigenvalues)
    return Autoencoder(
        directions=np.pad(directions, ((0, 0), (0, missing))),
        eigenvalues=np.pad(eigenvalues, (0, missing)),
        ridge=ridge * mean,
        root=root,
        popular=(1.0 + train.item_counts)[:, None] ** normalization,
    )
