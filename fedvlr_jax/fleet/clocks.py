"""The simulated clock that the flags describe."""

from __future__ import annotations

import numpy as np

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.fleet.asynchronous import AsynchronousParticipation, BufferRules
from fedvlr_jax.fleet.availability import AVAILABILITIES, Availability, AvailabilityOptions
from fedvlr_jax.fleet.hardware import Hardware, make_hardware
from fedvlr_jax.fleet.participation import Participation, available_clients
from fedvlr_jax.fleet.synchronous import Rules, SynchronousParticipation
from fedvlr_jax.fleet.work import Work, duration_s

# 200,000 clients have about 20 MB of sessions a day.
MOST_KEPT_CLIENTS = 200_000


def make_availability(config: Config, num_clients: int) -> Availability:
    """The `Availability` that --participation names.

    Raises:
      InputError: a trace that cannot be used.
    """
    fleet = config.fleet
    # The sessions of a day are kept where many rounds fall into it, and where they are small.
    often = fleet.pause_s <= 3600 and num_clients <= MOST_KEPT_CLIENTS
    kept = num_clients if often else 0
    options = AvailabilityOptions(fleet.available_share, fleet.trace, num_clients, kept)
    return AVAILABILITIES[fleet.participation](options)


def expected_reports(config: Config, num_clients: int) -> float:
    """The expected number of clients whose uploads a step of the server uses.

    With a simulated clock: --buffer, or --cohort, but not more than are available on average.
    Sessions that end and deadlines that pass before an upload are not taken into account.

    Raises:
      InputError: a trace that cannot be used.
    """
    federation, fleet = config.federation, config.fleet
    if fleet.buffer:
        return float(fleet.buffer)
    sampled: float = federation.cohort or num_clients
    if fleet.participation != "always":
        sampled = min(sampled, make_availability(config, num_clients).share * num_clients)
    return sampled * (1 - federation.client_dropout)


def make_participation(config: Config, dataset: Dataset, work: Work) -> Participation | None:
    """The simulated clock of the flags; None without one: the compiled round draws the clients.

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
    rules = Rules(federation.cohort, fleet.over_selection, fleet.deadline_s, fleet.pause_s)
    if rules.sampled > dataset.num_users:
        raise InputError(
            f"--over_selection={fleet.over_selection}: asks for more than the "
            f"{dataset.num_users} clients; lower it or --cohort"
        )
    availability = make_availability(config, dataset.num_users)
    hardware = make_hardware(dataset.train.counts, fleet.speed_activity_correlation)
    if fleet.buffer:
        return _asynchronous(config, dataset.num_users, availability, hardware, work)
    return SynchronousParticipation(dataset.num_users, availability, hardware, work, rules)


def _asynchronous(
    config: Config, num_clients: int, availability: Availability, hardware: Hardware, work: Work
) -> AsynchronousParticipation:
    """The clock of --buffer.

    Raises:
      InputError: more uploads in a step than there are clients.
    """
    fleet = config.fleet
    if fleet.buffer > num_clients:
        raise InputError(
            f"--buffer={fleet.buffer}: no client uploads twice for one server step, and there are "
            f"{num_clients} clients; give at most that"
        )

    def choose(
        seed: int, number: int, time: float, wanted: int, excluded: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return available_clients(availability, num_clients, wanted, seed, number, time, excluded)

    def duration(seed: int, clients: np.ndarray, number: int, version: int) -> np.ndarray:
        return duration_s(hardware, work, seed, clients, number, version)

    rules = BufferRules(
        config.federation.cohort, fleet.buffer, fleet.max_staleness, fleet.deadline_s
    )
    return AsynchronousParticipation(rules, choose, duration)
