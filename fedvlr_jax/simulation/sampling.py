"""Which clients each round samples, and how many rows are kept for them."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from fedvlr_jax.config import Config, FederationConfig
from fedvlr_jax.federated.devices import padded
from fedvlr_jax.federated.participation import (
    banded_clients,
    bucket_capacities,
    poisson_capacities,
    poisson_clients,
    sampled_clients,
)
from fedvlr_jax.federated.slices import (
    check_staleness,
    pack_schedule,
    slice_capacities,
    slices_of,
)
from fedvlr_jax.fleet import Participation
from fedvlr_jax.privacy.release import places_of
from fedvlr_jax.simulation.buckets import place_of


@dataclasses.dataclass(frozen=True, eq=False)
class Sampling:
    """The cohort of every round: equal for equal seeds and round numbers.

    Attributes:
      buckets: int64 [n_b] each, the user indices of each bucket.
      participation: the simulated clock; None where the compiled round draws who responds.
    """

    config: Config
    buckets: tuple[np.ndarray, ...]
    participation: Participation | None

    @property
    def federation(self) -> FederationConfig:
        """The options of the federation."""
        return self.config.federation

    @property
    def _bands(self) -> int:
        """The groups of clients that take turns; 1: all clients in every round."""
        return self.config.privacy.noise_bands

    @functools.cached_property
    def num_clients(self) -> int:
        """N."""
        return sum(len(clients) for clients in self.buckets)

    @property
    def samples(self) -> bool:
        """Whether a round samples only some clients."""
        return self.participation is not None or 0 < self.federation.cohort < self.num_clients

    @functools.cached_property
    def most_clients(self) -> int:
        """The largest cohort of a round without a simulated clock."""
        if not self.samples:
            return self.num_clients
        if self.federation.sampling == "fixed":
            return self.federation.cohort
        if self._bands > 1:
            return -(-self.num_clients // self._bands)
        return places_of(self.federation, self.num_clients)

    @functools.cached_property
    def capacities(self) -> list[int]:
        """Rows that a compiled round keeps for each bucket, a multiple of GROUPS."""
        sizes = [len(clients) for clients in self.buckets]
        cohort = self.federation.cohort
        if self.participation is not None:
            sizes = bucket_capacities(sizes, self.participation.expected)
        elif self.samples and self.federation.sampling == "poisson":
            sizes = poisson_capacities(sizes, cohort, self.most_clients)
        elif self.samples:
            sizes = bucket_capacities(sizes, cohort)
        return [padded(size) for size in sizes]

    def sampled_rows(self, seed: int, round_number: int) -> list[np.ndarray]:
        """The rows of each bucket whose clients a round samples, ascending.

        With a simulated clock these are the clients that report in time; the others change
        nothing.
        """
        if not self.samples:
            return [np.arange(len(clients)) for clients in self.buckets]
        return self._rows_of(self._sampled_clients(seed, round_number))

    def _rows_of(self, clients: np.ndarray) -> list[np.ndarray]:
        """The rows of these clients, by bucket."""
        bucket, row = (number[clients] for number in self._place)
        return [row[bucket == number] for number in range(len(self.buckets))]

    @functools.cached_property
    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        return place_of(self.buckets)

    def _sampled_clients(self, seed: int, round_number: int) -> np.ndarray:
        cohort = self.federation.cohort
        if self.participation is not None:
            schedule = self.participation.round(seed, round_number)
            return schedule.sampled[schedule.responded]
        if self._bands > 1:
            return banded_clients(seed, round_number, self.num_clients, cohort, self._bands)
        if self.federation.sampling == "poisson":
            most = self.most_clients
            return poisson_clients(seed, round_number, self.num_clients, cohort, most)
        return sampled_clients(seed, round_number, self.num_clients, cohort)

    def schedule(
        self, seed: int, first: int, num_rounds: int, places: int
    ) -> tuple[np.ndarray, ...] | None:
        """The sampled rows of some rounds, as a compiled loop takes them.

        Args:
          seed: of the run. first: the first round.
          places: rounds that the loop has room for, at least num_rounds; the others sample no
            client.

        Returns:
          int32 [places, K_b] per bucket, the number of rows of the bucket where there is no
          client; None where every client is sampled. If a bucket exceeds its static capacity,
          K_b grows and the round recompiles. With --buffer, as `slices.pack_schedule` returns.
        """
        if self.config.fleet.buffer:
            return self._buffered_schedule(seed, first, num_rounds, places)
        if not self.samples:
            return None
        rounds = [self.sampled_rows(seed, first + number) for number in range(num_rounds)]
        schedule = []
        for bucket, (clients, capacity) in enumerate(
            zip(self.buckets, self.capacities, strict=True)
        ):
            width = padded(max(capacity, *(len(rows[bucket]) for rows in rounds)))
            bucket_rows = np.full((places, width), padded(len(clients)), np.int32)
            for line, rows in zip(bucket_rows, rounds, strict=False):
                line[: len(rows[bucket])] = rows[bucket]
            schedule.append(bucket_rows)
        return tuple(schedule)

    def _buffered_schedule(
        self, seed: int, first: int, num_rounds: int, places: int
    ) -> tuple[np.ndarray, ...]:
        """The schedule of server steps with stale uploads; see `slices.pack_schedule`."""
        assert self.participation is not None
        capacities = slice_capacities(self.config, [len(clients) for clients in self.buckets])
        steps = []
        for number in range(first, first + num_rounds):
            step = self.participation.round(seed, number)
            clients = step.sampled[step.responded]
            staleness = np.zeros(len(clients), np.int64)
            if step.staleness is not None:
                staleness = step.staleness[step.responded]
            check_staleness(staleness, min(number, self.config.fleet.max_staleness))
            bucket = self._place[0][clients]
            by_bucket = [staleness[bucket == number] for number in range(len(self.buckets))]
            steps.append(slices_of(self._rows_of(clients), by_bucket, capacities))
        beyond = [padded(len(clients)) for clients in self.buckets]
        return pack_schedule(steps, capacities, beyond, places)
