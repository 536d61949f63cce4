"""The leading eigenvectors of a matrix, from its products with a basis only.

Each product is one exchange of the server with the clients; see `initialization.py` and `ease.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import solve_triangular

# Number of columns beyond d: the gap to the next directions sets the convergence of the last ones.
OVERSAMPLING = 32
# The smallest part of a column outside the span of the others for which the Gram matrix is exact
# enough.
LEAST_LEFT = 1e-6


def leading(
    exchanged: Callable[[np.ndarray], np.ndarray],
    size: int,
    columns: int,
    *,
    exchanges: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Subspace iteration on a symmetric matrix M [size, size] without negative eigenvalues.

    Args:
      exchanged: basis [size, columns] -> M basis.
      columns: of the iterated basis, which starts with the same draws in every run.
      exchanges: the number of products with M.
      width: the maximum number of returned eigenvectors.

    Returns:
      (eigenvalues [w], descending and at least 0; eigenvectors [size, w]), float64,
      w = min(width, columns).
    """
    basis = np.random.default_rng(0).standard_normal((size, columns))
    for _ in range(exchanges - 1):
        basis = exchanged(_spread(basis))
    basis = np.linalg.qr(basis)[0]
    # Rayleigh-Ritz: M on the span of the last basis.
    eigenvalues, turn = np.linalg.eigh(basis.T @ exchanged(basis))
    directions = (basis @ turn)[:, ::-1][:, :width]
    return np.maximum(eigenvalues[::-1][:width], 0.0), directions


def _spread(columns: np.ndarray) -> np.ndarray:
    """A basis [size, d] of the span of the columns: orthonormal up to about 1e-4.

    Subspace iteration needs the span alone. The Cholesky factor of the Gram matrix gives it in a
    fifth of the time of `numpy.linalg.qr`, which serves columns that nearly depend on each other.
    """
    gram = columns.T @ columns
    try:
        factor = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        return np.linalg.qr(columns)[0]
    # Relative to the length of a column, what the columns before it leave of it.
    left = np.diag(factor) / np.sqrt(np.diag(gram))
    if np.min(left) < LEAST_LEFT:
        return np.linalg.qr(columns)[0]
    return np.ascontiguousarray(solve_triangular(factor, columns.T, lower=True).T)
