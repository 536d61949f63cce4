"""The spectral initialization under central privacy: noisy subspace iteration over the histories.

`initialization.py` describes the method without noise. Here the server sends V [I, d] with
orthonormal columns, and client u, with the row x_u of zeros and ones, answers

    Y_u = a_u (x) p_u / |p_u|,    a_u = x_u / |x_u|,    p_u = a_u V,

[I, d] of length 1. The server adds independent Gaussian noise to every number of the sum of the
answers, and orthonormalises. After some exchanges the Rayleigh-Ritz step on the last one gives V
and the eigenvalues of the sum. This is the noisy power method (Hardt & Price 2014).

Guarantees:
- Adding or removing one client moves each sum by exactly 1, or by 0 if its history is empty.
- Without the scaling an answer a_u (x) p_u would be much shorter than its bound, because V spans
  few of many directions. Scaled to the bound, its signal is as large as possible beside the noise.
  On the span of V the sum of the answers stays symmetric without negative eigenvalues, which
  Rayleigh-Ritz needs.
- Everything else follows from the noisy sums, or a client computes it alone: its vector and the
  scale of its vector. The method does not use the counts of the items, so all items have equal
  weight.

It iterates only d columns: with noise, more columns did not help.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.settings import generator_of

# The purpose of `generator_of`.
_NOISE = 0x5EC7


def noise_generator(seed: int) -> np.random.Generator:
    """The generator of the noise of all exchanges; equal for equal seeds."""
    return generator_of(seed, _NOISE)


def answers(histories: sparse.csr_array, basis: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
    """The two factors of every client's answer: (a_u [N, I] sparse, p_u / |p_u| [N, d]).

    Args:
      histories: float64 [N, I], sparse rows of zeros and ones.
    """
    lengths = np.sqrt(np.maximum(np.asarray(histories.sum(axis=1)).ravel(), 1.0))
    rows = (histories * (1 / lengths)[:, None]).tocsr()
    projected = rows @ basis
    size = np.linalg.norm(projected, axis=1, keepdims=True)
    return rows, projected / np.where(size > 0, size, 1.0)


def noisy_sum(
    histories: sparse.csr_array,
    basis: np.ndarray,
    multiplier: float,
    draws: np.random.Generator,
) -> np.ndarray:
    """float64 [I, d]: the sum of all answers, each number with noise of deviation `multiplier`."""
    rows, projected = answers(histories, basis)
    return rows.T @ projected + multiplier * draws.standard_normal(basis.shape)


def noisy_exchanges(
    histories: sparse.csr_array,
    width: int,
    *,
    exchanges: int,
    multiplier: float,
    draws: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(V, the noisy sum of the answers to V) of every exchange, both float64 [I, width].

    Args:
      width: at most the number of items.
      multiplier: standard deviation of the noise over the length of one answer.
    """
    size = histories.shape[1], width
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal(size))[0]
    for remaining in reversed(range(exchanges)):
        found = noisy_sum(histories, basis, multiplier, draws)
        yield basis, found
        if remaining:
            basis = np.linalg.qr(found)[0]


def private_spectral_initialization(
    train: Interactions,
    width: int,
    *,
    exchanges: int,
    multiplier: float,
    shrinkage: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The items' table [I, d] and the clients' vectors [N, d], float64, of `exchanges` noisy sums.

    Equal for equal seeds. Columns beyond the number of items are 0.

    Args:
      multiplier: standard deviation of the noise over the length of one answer.
      shrinkage: of the directions, relative to the mean eigenvalue.
    """
    histories = train.matrix.astype(np.float64)
    columns = min(width, train.num_items)
    *_, (basis, found) = noisy_exchanges(
        histories,
        columns,
        exchanges=exchanges,
        multiplier=multiplier,
        draws=noise_generator(seed),
    )
    projected = basis.T @ found
    eigenvalues, turn = np.linalg.eigh((projected + projected.T) / 2)
    eigenvalues = np.maximum(eigenvalues[::-1], 1e-12 * np.abs(eigenvalues).max())
    kept = np.sqrt(eigenvalues / (eigenvalues + shrinkage * np.mean(eigenvalues)))
    items = (basis @ turn)[:, ::-1] * kept
    # A client's own row, its items weighted as in its training.
    lengths = np.sqrt(np.maximum(train.counts, 1.0))
    vectors = (train.weighted_matrix @ items) / lengths[:, None]
    missing = ((0, 0), (0, width - columns))
    return np.pad(items, missing), np.pad(vectors, missing)


def own_scale(train: Interactions, items: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """float64 [N, 1]: the factor by which each client makes the mean score of its own items 1.

    A client computes the factor alone. If the mean score is below |vector|, the vector fits the
    client's items no better than a random vector would, for rows of unit mean square. The factor is
    then 1 / |vector|.
    """
    counts = np.maximum(train.counts, 1.0)
    own = np.sum((train.matrix @ items) * vectors, axis=1) / counts
    least = np.linalg.norm(vectors, axis=1)
    bound = np.maximum(own, least)
    return (1 / np.where(bound > 0, bound, 1.0))[:, None]
