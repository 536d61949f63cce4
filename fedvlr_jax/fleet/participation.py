"""The clients of each round, as a simulated clock gives them.

`synchronous.py` and `asynchronous.py` are clocks. Their timeline does not depend on training. It is
a function of (seed, round), so it is the same for a resumed run, for every store and for every
number of devices.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from fedvlr_jax.errors import InputError
from fedvlr_jax.fleet.availability import Availability

# If no client is available, the server asks again after the first time, up to the second time.
RETRY_S, LONGEST_WAIT_S = 300.0, 86400.0
# This number of consecutive rounds without a report ends the run.
MOST_EMPTY_ROUNDS = 3


class RoundSchedule(NamedTuple):
    """One round of the timeline; times in simulated s from the start of the run.

    Attributes:
      sampled: int64 [K], the clients that the server asks, ascending.
      responded: bool [K], whether the server has the client's upload at the end of the round.
      busy_s: float64 [K], the client's working time in the round.
      start_s, end_s: of the round.
      staleness: int64 [K], server steps between the broadcast that the client trained on and the
        step that takes its upload; None if every client has the newest broadcast.
      training: int64 [M], the clients that have downloaded a broadcast and still train at the end
        of the round; a later round lists them as sampled. None for no client.
    """

    sampled: np.ndarray
    responded: np.ndarray
    busy_s: np.ndarray
    start_s: float
    end_s: float
    staleness: np.ndarray | None = None
    training: np.ndarray | None = None


class Participation(Protocol):
    """The clients of each round. `make_simulation` also takes an own implementation.

    Attributes:
      expected: the approximate number of clients that report in a round. It sets the size of the
        compiled round.
    """

    expected: int

    def round(self, seed: int, round_number: int) -> RoundSchedule:
        """The schedule of a round. It depends only on the arguments, not on earlier calls."""
        ...


def no_client(step: str, began: float) -> InputError:
    """The error of a run that waited too long, since `began` in s, for a client in `step`."""
    return InputError(
        f"--participation: no further client was available for {step} within a day after "
        f"{began / 3600:.1f} simulated hours; give another --participation or --trace, or a "
        "smaller --buffer"
    )


def available_clients(
    availability: Availability,
    total: int,
    wanted: int,
    seed: int,
    number: int,
    time: float,
    excluded: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A uniform draw among the available clients, without a test of all clients.

    It draws candidates without replacement and takes the first available ones.

    Args:
      total: clients of the population. wanted: maximum number of returned clients.
      number: of the draw; equal (seed, number, time) give equal clients.
      excluded: clients to leave out; None for none.

    Returns:
      (clients int64 [at most wanted], ascending; until when each is available, in s).
    """
    wanted = min(wanted, total)
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, number, 1))))
    tested = np.zeros(0, np.int64)
    found, ends, missing = [np.zeros(0, np.int64)], [np.zeros(0)], wanted
    while missing > 0 and len(tested) < total:
        size = int(1.2 * missing / availability.share) + 64
        if len(tested) + size >= total / 2:
            candidates = generator.permutation(total)
        else:
            candidates = generator.choice(total, size, replace=False)
        if len(tested):
            candidates = candidates[~np.isin(candidates, tested)]
        tested = np.concatenate([tested, candidates])
        if excluded is not None and len(excluded):
            candidates = candidates[~np.isin(candidates, excluded)]
        until = availability.until(seed, candidates, time)
        here = np.flatnonzero(until > time)[:missing]
        found.append(candidates[here])
        ends.append(until[here])
        missing -= len(here)
    clients, until = np.concatenate(found), np.concatenate(ends)
    order = np.argsort(clients)
    return clients[order], until[order]
