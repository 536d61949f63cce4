"""The availability of clients: always, at random, by day and night, or as in a trace.

An availability is a function of (seed, client, time), so that a run can resume at any round.
`sessions.py` has day and night, `traces.py` a trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax import registry
from fedvlr_jax.fleet import draws


class Availability(NamedTuple):
    """The available clients, and the ends of their sessions.

    Attributes:
      until: (seed, clients int64 [K], time in s) -> float64 [K]: the time at which the client's
        session ends; at most `time` if it is not available.
      share: the approximate share of clients that are available at a time. It sets the number of
        drawn candidates.
    """

    until: Callable[[int, np.ndarray, float], np.ndarray]
    share: float


class AvailabilityOptions(NamedTuple):
    """The arguments of the factories in `AVAILABILITIES`.

    Attributes:
      available_share: for `uniform`, the share of available clients.
      trace: for `from_trace`, the path of a CSV file.
      num_clients: clients of the population.
      kept_clients: for `diurnal`, the clients whose sessions of a day stay in memory; 0: none.
    """

    available_share: float
    trace: str
    num_clients: int
    kept_clients: int


def always() -> Availability:
    """Every client is available at any time."""
    return Availability(lambda seed, clients, time: np.full(len(clients), np.inf), 1.0)


def uniform(available_share: float) -> Availability:
    """Each client is available with probability `available_share`, drawn at each time."""

    def until(seed: int, clients: np.ndarray, time: float) -> np.ndarray:
        # Rounds may be shorter than a second, so the draw depends on all bits of the time.
        moment = int(np.float64(time).view(np.int64))
        drawn = draws.draw(seed, draws.CHECK_IN, clients, moment)
        return np.where(drawn < available_share, np.inf, time)

    return Availability(until, available_share)


AVAILABILITIES = registry.Factories(registry.AVAILABILITIES)
