"""Gaussian noise that is correlated over the rounds: banded matrix factorisation.

With Z_t independent standard Gaussians, the noise of round t is row t of C^-1 Z, times the
deviation of the Gaussian mechanism. C is lower triangular and Toeplitz with b bands, and its first
column has length 1 (Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization"). The
noise of later rounds cancels a part of the noise of earlier ones, so their sum, which the model is,
has less noise than with b = 1.

The bands are those of the square root of the matrix of prefix sums (Kalinin & Lampert 2024,
"Banded Square Root Matrix Factorization"), which is known in closed form. They do not depend on the
number of rounds.

*choice*: the published bands are optimal for plain gradient descent. The default server optimizer
here is Adam, for which no bands in closed form are known.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink.noise import Noise, gaussian_like


def band_coefficients(bands: int) -> np.ndarray:
    """float64 [b]: the first column of C. (2k choose k) / 4^k for k < b, scaled to length 1."""
    steps = [(2 * k - 1) / (2 * k) for k in range(1, bands)]
    column = np.cumprod([1.0, *steps])
    return column / math.sqrt(np.sum(np.square(column)))


def banded_noise(multiplier: float, denominator: float, coefficients: np.ndarray) -> Noise:
    """`central_noise` whose rounds are correlated by C, with the first column `coefficients` [b].

    Its state is the last b - 1 rows of C^-1 Z, the newest first: [b - 1, ...] of every array.
    With b = 1 and coefficient 1 it is `central_noise` with `always`.

    The bound must be the same in all rounds: the sensitivity is that of C times the bound.
    """
    first, rest = float(coefficients[0]), [float(c) for c in coefficients[1:]]

    def init(upload: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jnp.zeros((len(rest), *x.shape), x.dtype), upload)

    def correlated(key, upload, bound, state):
        def row(fresh, past):
            for number, weight in enumerate(rest):
                fresh = fresh - weight * past[number]
            return fresh / first

        noise = jax.tree.map(row, gaussian_like(key, upload), state)
        newest = lambda own, past: jnp.concatenate([own[None], past])[: len(rest)]
        after = jax.tree.map(newest, noise, state)
        deviation = jnp.asarray(multiplier * bound / denominator)
        noise, upload, deviation = jax.lax.optimization_barrier((noise, upload, deviation))
        noisy = jax.tree.map(lambda x, own: x + deviation * own, upload, noise)
        return noisy, after

    def add(key, upload, weight, bound):
        return correlated(key, upload, bound, init(upload))[0]

    return Noise(add, always=True, init=init, correlated=correlated)
