"""The leading eigenvectors of a matrix, from its products with a basis only.

Each product is one exchange of the server with the clients; see `initialization.py` and `ease.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Number of columns beyond d: the gap to the next directions sets the convergence of the last ones.
OVERSAMPLING = 32


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
    drawn = np.random.default_rng(0).standard_normal((size, columns))
    basis = np.linalg.qr(drawn)[0]
    for _ in range(exchanges - 1):
        basis = np.linalg.qr(exchanged(basis))[0]
    # Rayleigh-Ritz: M on the span of the last basis.
    eigenvalues, turn = np.linalg.eigh(basis.T @ exchanged(basis))
    directions = (basis @ turn)[:, ::-1][:, :width]
    return np.maximum(eigenvalues[::-1][:width], 0.0), directions
