"""Centralized matrix factorisation: PureSVD and iALS."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines.model import Model

# Upper bound on the bytes of factors that one chunk of least squares problems gathers.
CHUNK_BYTES = 1 << 25
# Number of entries of a row in one product. With more entries, BLAS starts threads for each small
# product; on a busy machine they take several times as long as the product.
PIECE = 64


def _right_vectors(train: sparse.csr_array, rank: int) -> np.ndarray:
    """float64 [I, r]: the leading right singular vectors, scaled by their values, largest first.

    r is `rank`, but at most min(train.shape) - 1. The row of an item without interactions is
    exactly 0.
    """
    rank = min(rank, min(train.shape) - 1)
    start = np.random.default_rng(0).random(min(train.shape))
    left, _, _ = svds(train, k=rank, v0=start)
    return (train.T @ left)[:, ::-1]


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


def least_squares(
    rows: sparse.csr_array, factors: np.ndarray, *, l2: float, alpha: float
) -> np.ndarray:
    """float64 [R, d]: for each row the vector p that minimises the loss of `ials`, given Q.

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

    The padded rows fit in CHUNK_BYTES. The longest row has at most twice the length of the
    shortest.
    """
    lengths = lengths[lengths <= 2 * lengths[0]]
    taken = 8 * width * lengths * np.arange(1, len(lengths) + 1)
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
