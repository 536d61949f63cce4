"""Centralized matrix factorisation: PureSVD and iALS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines.model import Model
from fedvlr_jax.least_squares import least_squares

# Singular values below this share of the largest one are zero up to rounding.
NO_VALUE = 1e-8


def _right_vectors(train: sparse.csr_array, rank: int) -> np.ndarray:
    """float64 [I, r]: the leading right singular vectors, scaled by their values, largest first.

    r is `rank`, but at most min(train.shape) - 1 (1 for a single user or item) and at most the rank
    of the matrix: the directions of zero singular values are rounding noise. The row of an item
    without interactions is exactly 0.
    """
    users, items = train.shape
    if min(users, items) == 1:
        left = np.linalg.svd(train.toarray(), full_matrices=False)[0]
    else:
        short = train if users < items else train.T
        basis = _leading_eigenvectors(short, min(rank, min(users, items) - 1))
        image, _, turn = np.linalg.svd(short.T @ basis, full_matrices=False)
        left = basis @ turn.T if users < items else image
    scaled = train.T @ left
    values = np.linalg.norm(scaled, axis=0)
    return scaled[:, values > NO_VALUE * values.max()]


def _leading_eigenvectors(short: sparse.csr_array, count: int) -> np.ndarray:
    """float64 [R, count], orthonormal: those of S S^T for S [R, C]; equal bits in every call."""
    size = short.shape[0]
    square = LinearOperator(
        (size, size), matvec=lambda vector: short @ (short.T @ vector), dtype=float
    )
    # ARPACK draws more vectors where eigenvalues repeat. `svds` does not pass a generator to it.
    draws = np.random.default_rng(0)
    _, found = eigsh(square, k=count, v0=draws.random(size), rng=draws)
    # Its vectors of repeated eigenvalues are not exactly orthogonal.
    return np.linalg.qr(found)[0]


def pure_svd(dataset: Dataset) -> Callable[..., Model]:
    """PureSVD (Cremonesi et al. 2010): scores X V V^T.

    X is the matrix of histories. V has the leading right singular vectors of the train matrix.
    """
    train = dataset.train.matrix
    scaled = _right_vectors(train, 256)
    vectors = scaled / np.linalg.norm(scaled, axis=0)

    def fit(*, rank: int = 64) -> Model:
        leading = vectors[:, :rank]
        return lambda history: (history @ leading) @ leading.T

    return fit


def ials(dataset: Dataset) -> Callable[..., Model]:
    """iALS: implicit alternating least squares (Hu et al. 2008), 64 factors.

    Minimises the sum over all users and items of c (x - <p, q>)^2, plus l2 times the squared
    norms, where c = 1 + alpha w for an entry of weight w and 1 elsewhere. The scaled right
    singular vectors initialise the item factors, so the fit is deterministic. The user factor of a
    history is its exact least squares solution.
    """
    train = dataset.train.matrix
    scaled = _right_vectors(train, 64)
    start = scaled / np.sqrt(np.linalg.norm(scaled, axis=0))
    columns = sparse.csr_array(train.T)

    def fit(*, l2: float = 10.0, alpha: float = 10.0, sweeps: int = 3) -> Model:
        items = start
        for _ in range(sweeps):
            users = least_squares(train, items, l2=l2, alpha=alpha)
            items = least_squares(columns, users, l2=l2, alpha=alpha)
        return lambda history: least_squares(history, items, l2=l2, alpha=alpha) @ items.T

    return fit
