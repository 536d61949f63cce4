"""The simulated clock of synchronous rounds: who reports in time, and when a round ends."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from fedvlr_jax.errors import InputError
from fedvlr_jax.fleet.availability import Availability
from fedvlr_jax.fleet.hardware import Hardware
from fedvlr_jax.fleet.participation import (
    LONGEST_WAIT_S,
    MOST_EMPTY_ROUNDS,
    RETRY_S,
    RoundSchedule,
    available_clients,
    no_client,
)
from fedvlr_jax.fleet.work import Work, duration_s


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

    @property
    def sampled(self) -> int:
        """The clients that a round samples, 0: every available one.

        The product is that of the written numbers: in floats 100 * 1.1 is above 110.
        """
        return math.ceil(self.cohort * Fraction(str(self.over_selection)))


class SynchronousParticipation:
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
        total = self.num_clients
        wanted = self._rules.sampled or total
        return available_clients(self._availability, total, wanted, seed, number, time)
