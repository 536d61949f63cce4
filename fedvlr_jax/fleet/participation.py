"""The simulated clock: who is sampled in each round, who reports in time, and when it ends.

The timeline does not depend on what is learnt. It is a function of (seed, round), so a run that
goes on, another store and another number of devices have the same one.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.fleet.availability import Availability, always, diurnal, from_trace, uniform
from fedvlr_jax.fleet.hardware import Hardware, make_hardware

# Where no client is available, the server asks again after so long.
RETRY_S = 300.0
# So many rounds without a report, one after the other, end the run.
MOST_EMPTY_ROUNDS = 3


class RoundSchedule(NamedTuple):
    """One round of the timeline; times in simulated s from the start of the run.

    Attributes:
      sampled: int64 [K], the clients that the server asks, ascending.
      responded: bool [K], whether the server has the client's upload when the round ends.
      busy_s: float64 [K], how long the client worked for the round.
      start_s, end_s: of the round.
    """

    sampled: np.ndarray
    responded: np.ndarray
    busy_s: np.ndarray
    start_s: float
    end_s: float


class Participation(Protocol):
    """Who takes part in each round. `make_simulation` takes one that was made elsewhere.

    Attributes:
      expected: about how many clients report in a round; rows for so many are kept.
    """

    expected: int

    def round(self, seed: int, round_number: int) -> RoundSchedule:
        """The schedule of a round: equal for equal arguments, in any order of calls."""
        ...


class Work(NamedTuple):
    """What a round asks of each client: bytes down and up, and rows of its loss [N]."""

    bytes_down: float
    bytes_up: np.ndarray
    rows: np.ndarray


class Rules(NamedTuple):
    """How the server runs a round.

    Attributes:
      cohort: uploads that end a round; 0: every available client is sampled, and none is late.
      over_selection: clients sampled, per upload that is wanted; at least 1.
      deadline_s: the longest round; 0: no deadline.
      pause_s: between the end of a round and the start of the next.
    """

    cohort: int
    over_selection: float
    deadline_s: float
    pause_s: float = 0.0


class SimulatedParticipation:
    """Rounds one after the other."""

    def __init__(
        self,
        num_clients: int,
        availability: Availability,
        hardware: Hardware,
        work: Work,
        rules: Rules,
    ):
        self.num_clients = num_clients
        self.expected = rules.cohort or num_clients
        self._availability = availability
        self._hardware = hardware
        self._work = work
        self._rules = rules
        # Of each seed: the end of each round that is known, and whether it was empty.
        self._ends: dict[int, list[tuple[float, bool]]] = {}
        self._last: dict[int, tuple[int, RoundSchedule]] = {}

    def round(self, seed: int, round_number: int) -> RoundSchedule:
        """As `Participation.round`. Earlier rounds are simulated once, if they have not been.

        Raises:
          InputError: three rounds, one after the other, had no report.
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
            f"--deadline_s={self._rules.deadline_s:g}: nobody reported in time in rounds {first} "
            f"to {len(known) - 1}; {hint}"
        )

    def _simulate(self, seed: int, number: int, start: float) -> RoundSchedule:
        sampled, until = self._ask(seed, number, start)
        if not len(sampled):
            nobody = np.zeros(0, bool)
            return RoundSchedule(sampled, nobody, np.zeros(0), start, start + RETRY_S)
        finish = start + self.duration_s(seed, sampled, number)
        deadline = start + self._rules.deadline_s if self._rules.deadline_s else np.inf
        done = (finish <= until) & (finish <= deadline)
        wanted = self._rules.cohort or len(sampled)
        if done.sum() >= wanted:
            # Ties go to the lower number, for the sort is stable.
            first = np.argsort(np.where(done, finish, np.inf), kind="stable")[:wanted]
            end = float(finish[first].max())
            responded = np.zeros(len(sampled), bool)
            responded[first] = True
        else:
            responded = done
            # The server waits for those that can still report.
            left = np.minimum(finish, until)
            end = deadline if math.isfinite(deadline) else float(left.max())
        busy = np.minimum(np.minimum(finish, until), end) - start
        return RoundSchedule(sampled, responded, busy, start, end)

    def duration_s(self, seed: int, clients: np.ndarray, number: int) -> np.ndarray:
        """[K]: seconds from the broadcast to the upload's arrival."""
        down, up = self._hardware.bytes_a_second(seed, clients, number)
        compute = self._work.rows[clients] * self._hardware.sample_s(seed, clients)
        return self._work.bytes_down / down + compute + self._work.bytes_up[clients] / up

    def _ask(self, seed: int, number: int, time: float) -> tuple[np.ndarray, np.ndarray]:
        """(clients that are available and sampled, ascending; until when each is available).

        Candidates are drawn without replacement, and the first that are available are sampled: a
        uniform draw among the available, without a look at everyone.
        """
        rules, total = self._rules, self.num_clients
        wanted = math.ceil(rules.cohort * rules.over_selection) if rules.cohort else total
        wanted = min(wanted, total)
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, number, 1))))
        tested = np.zeros(0, np.int64)
        found, ends, missing = [], [], wanted
        while missing > 0 and len(tested) < total:
            size = int(1.2 * missing / self._availability.share) + 64
            if len(tested) + size >= total / 2:
                candidates = generator.permutation(total)
            else:
                candidates = generator.choice(total, size, replace=False)
            if len(tested):
                candidates = candidates[~np.isin(candidates, tested)]
            until = self._availability.until(seed, candidates, time)
            here = np.flatnonzero(until > time)[:missing]
            found.append(candidates[here])
            ends.append(until[here])
            missing -= len(here)
            tested = np.concatenate([tested, candidates])
        sampled, until = np.concatenate(found), np.concatenate(ends)
        order = np.argsort(sampled)
        return sampled[order], until[order]


def make_participation(config: Config, dataset: Dataset, work: Work) -> Participation | None:
    """What the flags say; None without a clock: the compiled round draws who takes part itself.

    Raises:
      InputError: flags that do not go together, or a trace that cannot be used.
    """
    fleet, federation = config.fleet, config.federation
    if not fleet.has_clock:
        return None
    if federation.client_dropout:
        raise InputError(
            f"--client_dropout={federation.client_dropout}: with a simulated clock clients drop "
            "out when their session ends; give --client_dropout=0"
        )
    if fleet.over_selection > 1 and not federation.cohort:
        raise InputError(
            f"--over_selection={fleet.over_selection}: needs --cohort, the uploads that end a round"
        )
    if fleet.over_selection * federation.cohort > dataset.num_users:
        raise InputError(
            f"--over_selection={fleet.over_selection}: asks for more than the "
            f"{dataset.num_users} clients; lower it or --cohort"
        )
    kinds = {
        "always": always,
        "uniform": lambda: uniform(fleet.available_share),
        "diurnal": diurnal,
        "trace": lambda: from_trace(fleet.trace, dataset.num_users),
    }
    return SimulatedParticipation(
        dataset.num_users,
        kinds[fleet.participation](),
        make_hardware(dataset.train.counts, fleet.speed_activity_correlation),
        work,
        Rules(federation.cohort, fleet.over_selection, fleet.deadline_s, fleet.pause_s),
    )
