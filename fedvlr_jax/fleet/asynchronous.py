"""The simulated clock of buffered asynchronous rounds (FedBuff, Nguyen et al. 2022).

`cohort` clients train at any time. When a client reports or is lost, another client downloads the
newest version and trains. The server takes a step when `buffer` uploads have arrived. The timeline
is a function of the seed.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.errors import InputError
from fedvlr_jax.fleet.participation import (
    LONGEST_WAIT_S,
    MOST_EMPTY_ROUNDS,
    RETRY_S,
    RoundSchedule,
    no_client,
)

# (seed, number of the draw, time in s, clients wanted, excluded clients) -> (clients int64,
# ascending; until when each is available in s)
Choose = Callable[[int, int, float, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
# (seed, clients, number of the draw, version of the broadcast) -> seconds from the broadcast to the
# arrival of the upload
Duration = Callable[[int, np.ndarray, int, int], np.ndarray]


class BufferRules(NamedTuple):
    """How the server runs asynchronous rounds.

    Attributes:
      cohort: clients that train at a time.
      buffer: uploads of a server step.
      max_staleness: the most steps between the version that a client downloaded and the step that
        takes its upload. The server stops a client with an older version. With 0, clients start
        only at a server step: synchronous rounds with over-selection by cohort / buffer.
      deadline_s: the longest time of one client; 0: no limit.
    """

    cohort: int
    buffer: int
    max_staleness: int
    deadline_s: float = 0.0


class Flight(NamedTuple):
    """A client that trains; ordered by its end time, then by client.

    Attributes:
      end_s: the time when its upload arrives or it is lost. version: the downloaded version.
      reports: whether its upload arrives.
    """

    end_s: float
    client: int
    start_s: float
    version: int
    reports: bool


@dataclasses.dataclass
class _Timeline:
    """The simulated part of the timeline of one seed.

    Attributes:
      draws: number of draws of clients. lost: clients lost since the last report.
    """

    time: float = 0.0
    draws: int = 0
    lost: int = 0
    flights: list[Flight] = dataclasses.field(default_factory=list)
    steps: list[RoundSchedule] = dataclasses.field(default_factory=list)


class AsynchronousParticipation:
    """A `Participation` whose rounds are server steps.

    The schedule of a step lists the clients whose work ended in it. The step takes the uploads of
    the `responded` ones. No client uploads twice for one step. A lost client may appear a second
    time.
    """

    def __init__(self, rules: BufferRules, choose: Choose, duration: Duration) -> None:
        self.expected = rules.buffer
        self._rules, self._choose, self._duration = rules, choose, duration
        self._timelines: dict[int, _Timeline] = {}

    def round(self, seed: int, round_number: int) -> RoundSchedule:
        """As `Participation.round`. Simulates each earlier step once and keeps it.

        Raises:
          InputError: three cohorts of clients were lost in a row without a report, or no client
            was available for a day.
        """
        timeline = self._timelines.setdefault(seed, _Timeline())
        while len(timeline.steps) <= round_number:
            timeline.steps.append(self._step(seed, timeline))
        return timeline.steps[round_number]

    def _step(self, seed: int, timeline: _Timeline) -> RoundSchedule:
        """The next step. Moves `timeline` to its end, but does not add it to the list of steps."""
        rules, start = self._rules, timeline.time
        counted: list[Flight] = []
        lost: list[Flight] = []
        self._fill(seed, timeline, counted)
        while len(counted) < rules.buffer:
            self._wait(seed, timeline, counted)
            flight = heapq.heappop(timeline.flights)
            timeline.time = flight.end_s
            if flight.reports:
                counted.append(flight)
                timeline.lost = 0
            else:
                lost.append(flight)
                timeline.lost += 1
                self._check_lost(timeline)
            # After the last upload of the step the next clients start on the new version.
            waiting = len(counted) < rules.buffer
            if waiting and (rules.max_staleness or not timeline.flights):
                self._fill(seed, timeline, counted)
        oldest = len(timeline.steps) + 1 - rules.max_staleness
        stopped = [flight for flight in timeline.flights if flight.version < oldest]
        lost += [flight._replace(end_s=timeline.time) for flight in stopped]
        timeline.flights = [flight for flight in timeline.flights if flight.version >= oldest]
        heapq.heapify(timeline.flights)
        return self._schedule(counted, lost, start, timeline)

    def _schedule(
        self, counted: list[Flight], lost: list[Flight], start: float, timeline: _Timeline
    ) -> RoundSchedule:
        everyone = sorted(
            [(flight, True) for flight in counted] + [(flight, False) for flight in lost],
            key=lambda pair: (pair[0].client, pair[0].start_s),
        )
        of = lambda values, kind: np.fromiter(values, kind, len(everyone))
        return RoundSchedule(
            sampled=of((flight.client for flight, _ in everyone), np.int64),
            responded=of((taken for _, taken in everyone), bool),
            busy_s=of((flight.end_s - flight.start_s for flight, _ in everyone), float),
            start_s=start,
            end_s=timeline.time,
            staleness=of((len(timeline.steps) - f.version for f, _ in everyone), np.int64),
            training=np.array(sorted(f.client for f in timeline.flights), np.int64),
        )

    def _fill(self, seed: int, timeline: _Timeline, counted: list[Flight]) -> None:
        """Starts clients until `cohort` train or no other client is available."""
        rules, time = self._rules, timeline.time
        wanted = rules.cohort - len(timeline.flights)
        if not wanted:
            return
        excluded = np.array([f.client for f in (*timeline.flights, *counted)], np.int64)
        number = timeline.draws
        timeline.draws += 1
        clients, until = self._choose(seed, number, time, wanted, excluded)
        if not len(clients):
            return
        version = len(timeline.steps)
        finish = time + self._duration(seed, clients, number, version)
        deadline = time + rules.deadline_s if rules.deadline_s else np.inf
        reports = (finish <= until) & (finish <= deadline)
        end = np.minimum(np.minimum(finish, until), deadline)
        for each in zip(end.tolist(), clients.tolist(), reports.tolist(), strict=True):
            heapq.heappush(timeline.flights, Flight(each[0], each[1], time, version, each[2]))

    def _wait(self, seed: int, timeline: _Timeline, counted: list[Flight]) -> None:
        """Advances the time until at least one client trains."""
        began = timeline.time
        while not timeline.flights:
            timeline.time += RETRY_S
            if timeline.time - began > LONGEST_WAIT_S:
                raise no_client(f"server step {len(timeline.steps) + 1}", began)
            self._fill(seed, timeline, counted)

    def _check_lost(self, timeline: _Timeline) -> None:
        rules = self._rules
        if timeline.lost < MOST_EMPTY_ROUNDS * rules.cohort:
            return
        hint = "give a longer --deadline_s, or 0" if rules.deadline_s else "no client reports"
        raise InputError(
            f"--deadline_s={rules.deadline_s:g}: {timeline.lost} clients in a row did not report "
            f"in time before server step {len(timeline.steps) + 1}; {hint}"
        )
