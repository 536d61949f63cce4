"""The clients' speed of computation and transfer, and their tiers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from fedvlr_jax.fleet import draws

# Seconds a sample: LogNormal(1, 0.6) times 5 ms (FedScale, Lai et al. 2022).
SAMPLE_S, SPEED_LOG_MEAN, SPEED_LOG_SIGMA = 0.005, 1.0, 0.6
# kb/s, fitted on the 19 network profiles of FLASH: mean and sigma of the logarithms, their
# correlation, and the coefficient of variation from transfer to transfer.
DOWN_LOG, UP_LOG, LINK_CORRELATION, TRANSFER_VARIATION = (8.55, 0.47), (8.04, 0.68), 0.45, 0.37
TIERS = ("low", "mid", "high")


class Hardware(NamedTuple):
    """The devices of a population.

    Attributes:
      activity_score: float64 [N], the normal score of each client's rank by history length.
      correlation: between that score and the logarithm of the speed, in [-1, 1].
    """

    activity_score: np.ndarray
    correlation: float

    def speed_score(self, seed: int, clients: np.ndarray) -> np.ndarray:
        """[K]: standard normal; higher is faster."""
        own = draws.normal(seed, draws.SPEED, clients)
        mixed = self.correlation * self.activity_score[clients]
        return mixed + np.sqrt(1 - self.correlation**2) * own

    def sample_s(self, seed: int, clients: np.ndarray) -> np.ndarray:
        """[K]: seconds of computation for one row of a client's loss."""
        score = self.speed_score(seed, clients)
        return SAMPLE_S * np.exp(SPEED_LOG_MEAN - SPEED_LOG_SIGMA * score)

    def bytes_a_second(
        self, seed: int, clients: np.ndarray, round_number: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """([K], [K]): down and up in bytes/s, in one round."""
        first = draws.normal(seed, draws.DOWN, clients)
        other = draws.normal(seed, draws.UP, clients)
        second = LINK_CORRELATION * first + np.sqrt(1 - LINK_CORRELATION**2) * other
        sigma = np.sqrt(np.log1p(TRANSFER_VARIATION**2))

        def rate(log: tuple[float, float], score: np.ndarray, purpose: int) -> np.ndarray:
            now = sigma * draws.normal(seed, purpose, clients, round_number) - sigma**2 / 2
            return 125 * np.exp(log[0] + log[1] * score + now)

        return rate(DOWN_LOG, first, draws.DOWN_NOW), rate(UP_LOG, second, draws.UP_NOW)

    def tier(self, seed: int, clients: np.ndarray) -> np.ndarray:
        """int64 [K]: the index into TIERS; each tier has a third of the clients, by speed."""
        return np.digitize(self.speed_score(seed, clients), special.ndtri([1 / 3, 2 / 3]))


def make_hardware(history_length: np.ndarray, correlation: float) -> Hardware:
    """The devices of clients with histories of the given lengths [N].

    Args:
      correlation: between activity and speed; 0 for none.
    """
    from scipy import stats  # The import takes most of a second; only a clock needs it.

    rank = stats.rankdata(history_length) / (len(history_length) + 1)
    return Hardware(special.ndtri(rank), correlation)
