"""The simulated clock: which clients a round samples, which report in time, and when it ends.

The timeline does not depend on training. It is a function of (seed, round), so it is the same for
a resumed run, for every store and for every number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from fedvlr_jax.errors import InputError
from fedvlr_jax.fleet.availability import Availability
from fedvlr_jax.fleet.hardware import Hardware

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
    """

    sampled: np.ndarray
    responded: np.ndarray
    busy_s: np.ndarray
    start_s: float
    end_s: float
    staleness: np.ndarray | None = None


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


# (seed, clients [K], round of the broadcast that they train on) -> their local epochs [K]
LocalEpochs = Callable[[int, np.ndarray, int], np.ndarray]


def one_epoch(seed: int, clients: np.ndarray, version: int) -> np.ndarray:
    """The `LocalEpochs` of clients that all train one epoch."""
    return np.ones(len(clients))


class Work(NamedTuple):
    """The work of each client in a round.

    Attributes:
      bytes_down: of the broadcast to each client [N].
      bytes_up: of each client's upload, and of its request for rows [N].
      rows: of each client's loss, in one local epoch [N].
      local_epochs: the number of local epochs of each client in a round.
    """

    bytes_down: np.ndarray
    bytes_up: np.ndarray
    rows: np.ndarray
    local_epochs: LocalEpochs = one_epoch


class Rules(NamedTuple):
    """How the server runs a round.

    Attributes:
      cohort: the number of uploads that ends a round; 0: the server samples every available client
        and waits for all.
      over_selection: sampled clients per wanted upload; at least 1.
      deadline_s: the maximum length of a round; 0: no deadline.
      pause_s: time between the end of a round and the start of the next.
    """

    cohort: int
    over_selection: float
    deadline_s: float
    pause_s: float = 0.0


class SimulatedParticipation:
    """Consecutive rounds. A round starts when a client is available."""

    def __init__(
        self,
        num_clients: int,
        availability: Availability,
        hardware: Hardware,
        work: Work,
        rules: Rules,
    ) -> None:
        self.num_clients = num_clients
        self.expected = rules.cohort or num_clients
        self._availability = availability
        self._hardware = hardware
        self._work = work
        self._rules = rules
        # {seed: (end of the round, whether it was empty) of each round simulated so far}.
        self._ends: dict[int, list[tuple[float, bool]]] = {}
        self._last: dict[int, tuple[int, RoundSchedule]] = {}

    def round(self, seed: int, round_number: int) -> RoundSchedule:
        """As `Participation.round`. Simulates each earlier round once.

        Raises:
          InputError: three consecutive rounds had no report.
        """
        known = self._ends.setdefault(seed, [])
        kept = self._last.get(seed)
        if kept is not None and kept[0] == round_number:
            return kept[1]
        for number in range(min(len(known), round_number), round_number + 1):
            start = known[number - 1][0] + self._rules.pause_s if number else 0.0
            schedule = self._simulate(seed, number, start)
            if number == len(known):
                known.append((schedule.end_s, not schedule.responded.any()))
                self._check_reports(known)
        self._last[seed] = round_number, schedule
        return schedule

    def _check_reports(self, known: list[tuple[float, bool]]) -> None:
        last = known[-MOST_EMPTY_ROUNDS:]
        if len(last) < MOST_EMPTY_ROUNDS or not all(empty for _, empty in last):
            return
        first = len(known) - MOST_EMPTY_ROUNDS
        hint = "give a longer --deadline_s, or 0" if self._rules.deadline_s else "no client reports"
        raise InputError(
            f"--deadline_s={self._rules.deadline_s:g}: no client reported in time in rounds "
            f"{first} to {len(known) - 1}; {hint}"
        )

    def _simulate(self, seed: int, number: int, start: float) -> RoundSchedule:
        began = start
        sampled, until = self._ask(seed, number, start)
        while not len(sampled):
            start += RETRY_S
            if start - began > LONGEST_WAIT_S:
                raise no_client(f"round {number}", began)
            sampled, until = self._ask(seed, number, start)
        finish = start + self.duration_s(seed, sampled, number)
        deadline = start + self._rules.deadline_s if self._rules.deadline_s else np.inf
        done = (finish <= until) & (finish <= deadline)
        # If fewer clients are available than it wants, the server waits for those that it asked.
        wanted = min(self._rules.cohort or len(sampled), len(sampled))
        if done.sum() >= wanted:
            # The sort is stable, so of equal times the lower client number comes first.
            first = np.argsort(np.where(done, finish, np.inf), kind="stable")[:wanted]
            end = float(finish[first].max())
            responded = np.zeros(len(sampled), bool)
            responded[first] = True
        else:
            responded = done
            # The server waits for clients that can still report.
            left = np.minimum(finish, until)
            end = deadline if math.isfinite(deadline) else float(left.max())
        busy = np.minimum(np.minimum(finish, until), end) - start
        return RoundSchedule(sampled, responded, busy, start, end)

    def duration_s(self, seed: int, clients: np.ndarray, number: int) -> np.ndarray:
        """[K]: seconds from the broadcast to the arrival of the upload."""
        return duration_s(self._hardware, self._work, seed, clients, number, number)

    def _ask(self, seed: int, number: int, time: float) -> tuple[np.ndarray, np.ndarray]:
        """(clients that are available and sampled, ascending; until when each is available)."""
        rules, total = self._rules, self.num_clients
        wanted = math.ceil(rules.cohort * rules.over_selection) if rules.cohort else total
        return available_clients(self._availability, total, wanted, seed, number, time)


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


def duration_s(
    hardware: Hardware, work: Work, seed: int, clients: np.ndarray, number: int, version: int
) -> np.ndarray:
    """[K]: seconds from the broadcast to the arrival of the upload.

    Args:
      number: of the draw of the transfer speeds. version: the round of the broadcast.
    """
    down, up = hardware.bytes_a_second(seed, clients, number)
    rows = work.rows[clients] * work.local_epochs(seed, clients, version)
    compute = rows * hardware.sample_s(seed, clients)
    return work.bytes_down[clients] / down + compute + work.bytes_up[clients] / up
