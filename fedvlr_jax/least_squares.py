"""Weighted ridge regressions, one for each sparse row."""

from __future__ import annotations

import numpy as np
from scipy import sparse

# Upper bound on the bytes of one chunk of least squares problems: gathered factors and systems.
CHUNK_BYTES = 1 << 22
# Number of entries of a row in one product. With more entries, BLAS starts threads for each small
# product; on a busy machine they take several times as long as the product.
PIECE = 64


def least_squares(
    rows: sparse.csr_array, factors: np.ndarray, *, l2: float, alpha: float
) -> np.ndarray:
    """float64 [R, d]: for each row the vector p of implicit least squares (Hu et al. 2008).

    It minimises the sum over j of c_j (x_j - <p, q_j>)^2, plus l2 <p, p>, where x_j = 1 and c_j =
    1 + alpha w_j for an entry, and x_j = 0 and c_j = 1 elsewhere:

    p = (Q^T Q + alpha sum_j w_j q_j q_j^T + l2 I)^-1 sum_j (1 + alpha w_j) q_j over the entries j
    of the row. The vector of an empty row is 0.

    Args:
      rows: float64 CSR [R, C], the weights of the entries.
      factors: float64 [C, d], Q.
    """
    width = factors.shape[1]
    common = factors.T @ factors + l2 * np.eye(width)
    lengths = np.diff(rows.indptr)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    solved = np.zeros((rows.shape[0], width))
    # Padding entries point to an additional row of zeros.
    padded = np.concatenate([factors, np.zeros((1, width))])
    while len(order):
        count = _rows_that_fit(lengths[order], width)
        chunk, order = order[:count], order[count:]
        solved[chunk] = _solve_chunk(rows, chunk, padded, common, alpha)
    return solved


def _rows_that_fit(lengths: np.ndarray, width: int) -> int:
    """The number of rows in the next chunk, at least 1, for ascending `lengths`.

    The padded rows and the systems fit in CHUNK_BYTES. The longest row has at most twice the
    length of the shortest.
    """
    lengths = lengths[lengths <= 2 * lengths[0]]
    taken = 8 * width * (lengths + width) * np.arange(1, len(lengths) + 1)
    return max(1, int(np.searchsorted(taken, CHUNK_BYTES, side="right")))


def _solve_chunk(
    rows: sparse.csr_array,
    chunk: np.ndarray,
    padded: np.ndarray,
    common: np.ndarray,
    alpha: float,
) -> np.ndarray:
    """float64 [chunk, d]: `least_squares` of the rows `chunk`, padded to the longest row."""
    begin, lengths = rows.indptr[chunk], np.diff(rows.indptr)[chunk]
    place = np.arange(lengths.max())
    real = place < lengths[:, None]
    entry = np.where(real, begin[:, None] + place, 0)
    index = np.where(real, rows.indices[entry], len(padded) - 1)
    weight = np.where(real, rows.data[entry], 0.0)
    gathered = padded[index]
    weighted = gathered * (alpha * weight)[..., None]
    systems = np.repeat(common[None], len(chunk), axis=0)
    for first in range(0, len(place), PIECE):
        piece = slice(first, first + PIECE)
        systems += np.matmul(weighted[:, piece].transpose(0, 2, 1), gathered[:, piece])
    right = np.einsum("rp,rpd->rd", 1 + alpha * weight, gathered)
    return np.linalg.solve(systems, right[..., None])[..., 0]
