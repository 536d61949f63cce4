"""Random numbers that are functions of (seed, purpose, client, ...), in NumPy, for many clients.

The generator is counter-based and has no state, so a draw does not depend on earlier draws.
"""

from __future__ import annotations

import numpy as np
from scipy import special

# One number for each purpose of a draw.
ELIGIBLE, SHARE, SESSIONS, ARRIVALS, START, LENGTH = range(6)
SPEED, DOWN, UP, DOWN_NOW, UP_NOW, CHECK_IN = range(6, 12)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(seed: int, purpose: int, *numbers: np.ndarray | int) -> np.ndarray:
    """float64 in (0, 1), in the broadcast shape of the whole `numbers`."""
    with np.errstate(over="ignore"):
        state = _mixed(np.asarray([seed], np.uint64) + _GOLDEN)
        state = _mixed(state + np.uint64(purpose + 1) * _GOLDEN)
        for number in numbers:
            state = _mixed((state ^ np.asarray(number, np.int64).astype(np.uint64)) + _GOLDEN)
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normal(seed: int, purpose: int, *numbers: np.ndarray | int) -> np.ndarray:
    """As `draw`, from the standard normal distribution."""
    return special.ndtri(draw(seed, purpose, *numbers))


def poisson(uniform: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """int64: the quantile at `uniform` of the Poisson distribution of each `rate` (below 500)."""
    count = np.zeros(rate.shape, np.int64)
    term = np.exp(-rate)
    total = term.copy()
    left = np.flatnonzero(uniform > total)
    # Stop far beyond any rate, because rounding can keep the sum below 1.
    for number in range(1, 2000):
        if not len(left):
            break
        term[left] *= rate[left] / number
        total[left] += term[left]
        count[left] = number
        left = left[uniform[left] > total[left]]
    return count
