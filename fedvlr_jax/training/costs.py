"""The costs of a run: bytes, simulated hours, client time, estimated energy, participation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.evaluation.metrics import user_metrics
from fedvlr_jax.federated.exchanges import bytes_before_training
from fedvlr_jax.federated.participation import stays
from fedvlr_jax.fleet import SCHEMES, RoundSchedule, round_bytes
from fedvlr_jax.fleet.hardware import TIERS
from fedvlr_jax.privacy.secure_rounds import secure_cohort, secure_cost
from fedvlr_jax.selection import Selection
from fedvlr_jax.settings import compiled, key_of
from fedvlr_jax.simulation import Simulation
from fedvlr_jax.simulation.workload import (
    download_bytes,
    hardware_of,
    touched_rows,
    upload_shape,
    work_of,
)

# Assumptions of the estimate. A phone that trains or transfers takes 3 W, the network 60 Wh per GB,
# the server 45 W at a PUE of 1.09 during a round (Yousefpour et al. 2023). The grid emits 436 g of
# CO2e per kWh, the world's mean of 2022.
CLIENT_W, NETWORK_WH_A_GB, SERVER_W, PUE, GRID_G_A_KWH = 3.0, 60.0, 45.0, 1.09, 436.0

# Shares of a run's best validation NDCG@50; the summary has the cost of each.
SHARES_OF_BEST = (0.5, 0.9, 1.0)


def first_reaching(curve: Sequence[Mapping[str, Any]], ndcg: float) -> Mapping[str, Any] | None:
    """The first point of a "curve" with a validation NDCG@50 of at least `ndcg` percent, or None.

    A curve has a point for each evaluation, so it says no more than --eval_every lets it.
    """
    found = (p for p in curve if p["ndcg@50"] is not None and p["ndcg@50"] >= ndcg)
    return next(found, None)


def judged_by(selection: Selection) -> Selection:
    """NDCG@50 of the slice that a run is selected by."""
    return Selection(selection.slice, "ndcg", 50)


def gini(values: np.ndarray) -> float:
    """The Gini coefficient of values >= 0: 0 where all are equal, 1 - 1 / N where one has all."""
    ordered = np.sort(np.asarray(values, float))
    total = ordered.sum()
    if not total:
        return 0.0
    place = np.arange(1, len(ordered) + 1)
    return float(
        2 * (place * ordered).sum() / (len(ordered) * total) - (len(ordered) + 1) / len(ordered)
    )


def energy(client_s: float, transferred_bytes: float, server_s: float) -> dict[str, float]:
    """Wh by part and g of CO2e, an estimate from the constants of this module."""
    parts = {
        "clients_wh": CLIENT_W * client_s / 3600,
        "network_wh": NETWORK_WH_A_GB * transferred_bytes / 1e9,
        "server_wh": SERVER_W * PUE * server_s / 3600,
    }
    total = sum(parts.values())
    return {**parts, "total_wh": total, "co2e_g": GRID_G_A_KWH * total / 1000}


class RoundCosts(NamedTuple):
    """The costs of one round, or their sum over rounds.

    Attributes:
      sampled, responded: clients.
      bytes_up, bytes_down: of all clients.
      client_s: time of the clients, in s; wasted_s: the part for uploads that did not count.
      server_s: length of the round in simulated s.
    """

    sampled: float = 0
    responded: float = 0
    bytes_up: float = 0
    bytes_down: float = 0
    client_s: float = 0
    wasted_s: float = 0
    server_s: float = 0

    @property
    def transferred(self) -> float:
        """Bytes in both directions."""
        return self.bytes_down + self.bytes_up

    @property
    def energy(self) -> dict[str, float]:
        """As the function `energy`."""
        return energy(self.client_s, self.transferred, self.server_s)


def client_bytes(simulation: Simulation) -> dict[str, Any]:
    """Bytes of one client in one round: down, and up by scheme; means over clients."""
    setup = simulation.setup
    shape, touched = upload_shape(setup), touched_rows(setup)
    down, request = download_bytes(setup)
    sizes = {scheme: round_bytes(shape, touched, scheme) + request for scheme in SCHEMES}
    return {
        "down": float(down.mean()),
        "up": {scheme: float(size.mean()) for scheme, size in sizes.items()},
    }


def secure_sum_costs(simulation: Simulation, seed: int, rounds: int) -> dict[str, Any]:
    """The bytes and messages of --aggregation=secure, and its aborted rounds.

    Returns:
      {"neighbours", "up", "down" (bytes of one client in one round, with masks, keys and shares,
      beside the broadcast), "message_rounds", "must_answer", "aborted_rounds"}.
    """
    config, users = simulation.config, simulation.population.num_users
    neighbours, cost = secure_cost(config, users, upload_shape(simulation.setup))
    return {
        "neighbours": neighbours,
        "up": cost.up,
        "down": cost.down,
        "message_rounds": cost.rounds,
        "must_answer": _least_reports(simulation),
        "aborted_rounds": _aborted_rounds(simulation, seed, rounds),
    }


def _least_reports(simulation: Simulation) -> int:
    """The reports without which a round changes nothing; 0 but for a secure sum."""
    if simulation.config.federation.aggregation != "secure":
        return 0
    return secure_cohort(simulation.config, simulation.population.num_users).least


def _aborted_rounds(simulation: Simulation, seed: int, rounds: int) -> int:
    """The number of rounds in which too few clients responded for a secure sum."""
    config, least = simulation.config, _least_reports(simulation)
    draw = compiled(
        lambda number, client: stays(key_of(seed), number, client, config.federation.client_dropout)
    )
    aborted = 0
    for number in range(rounds):
        rows = simulation.sampling.sampled_rows(seed, number)
        sampled = np.concatenate(
            [own[row] for own, row in zip(simulation.buckets, rows, strict=True)]
        )
        # Padded, so that the draw compiles once.
        clients = np.zeros(simulation.population.num_users, np.int32)
        clients[: len(sampled)] = sampled
        responded = np.asarray(draw(np.uint32(number), clients))[: len(sampled)]
        aborted += int(responded.sum() < least)
    return aborted


def summarise_costs(
    simulation: Simulation, seed: int, rounds: int, evaluations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The "costs" of summary.json.

    Returns:
      "client_round_bytes": as `client_bytes`; with exchanges before the first round
      "initialization_bytes": {"down", "up"} of one client, on average; with --aggregation=secure
      "secure_sum": as `secure_sum_costs`; with a simulated clock also "sampled", "responded",
      "dropped_share" (of those sampled), "bytes_down", "bytes_up", "simulated_h", "client_h",
      "wasted_share" (of the clients' time, spent on uploads that did not count), "energy",
      "participation_gini", "never_took_part" (share of the users), and "curve": of each evaluation
      its round, hours, bytes, Wh and validation NDCG@50, and "reached": for the shares in
      SHARES_OF_BEST, the first point of the curve at that share of the best NDCG@50. With --buffer
      also "mean_staleness" and "max_staleness" of the uploads. Bytes include the downloads of the
      clients that still train at the end; "sampled" and the clients' time do not include them.
    """
    costs: dict[str, Any] = {"client_round_bytes": client_bytes(simulation)}
    before = bytes_before_training(simulation.config, simulation.model, simulation.population)
    if before[0]:
        costs["initialization_bytes"] = {"down": before[0], "up": float(before[1].mean())}
    if simulation.config.federation.aggregation == "secure":
        costs["secure_sum"] = secure_sum_costs(simulation, seed, rounds)
    if simulation.participation is None:
        return costs
    work = work_of(simulation.setup)
    up, down, least = work.bytes_up, work.bytes_down, _least_reports(simulation)
    _, request = download_bytes(simulation.setup)
    took_part = np.zeros(simulation.population.num_users, np.int64)
    staleness: list[np.ndarray] = []
    end = np.zeros(rounds + 1)
    by_round = [RoundCosts(bytes_up=before[1].sum(), bytes_down=before[0] * len(before[1]))]
    unfinished = [RoundCosts()]
    for number in range(rounds):
        schedule = simulation.participation.round(seed, number)
        took_part[schedule.sampled[schedule.responded]] += 1
        if schedule.staleness is not None:
            staleness.append(schedule.staleness[schedule.responded])
        by_round.append(_costs_of_round(schedule, down, up, request, least))
        unfinished.append(_costs_in_training(schedule, down, request))
        end[number + 1] = schedule.end_s
    until_round = np.cumsum(np.array(by_round, float), axis=0) + np.array(unfinished, float)
    totals = [RoundCosts(*total) for total in until_round]
    total = totals[-1]
    curve = [
        {
            "round": entry["round"],
            "hours": end[entry["round"]] / 3600,
            "bytes": totals[entry["round"]].transferred,
            "wh": totals[entry["round"]].energy["total_wh"],
            "ndcg@50": judged_by(simulation.selection).value(entry["valid"]),
        }
        for entry in evaluations
    ]
    best = max((point["ndcg@50"] or 0.0 for point in curve), default=0.0)
    points = [(share, first_reaching(curve, share * best)) for share in SHARES_OF_BEST if best]
    reached = [{"share": share, **point} for share, point in points if point is not None]
    if staleness:
        ages = np.concatenate(staleness)
        costs |= {"mean_staleness": float(ages.mean()), "max_staleness": int(ages.max())}
    return costs | {
        "sampled": int(total.sampled),
        "responded": int(total.responded),
        "dropped_share": 1 - total.responded / max(total.sampled, 1),
        "bytes_down": total.bytes_down,
        "bytes_up": total.bytes_up,
        "simulated_h": end[-1] / 3600,
        "client_h": total.client_s / 3600,
        "wasted_share": total.wasted_s / max(total.client_s, 1e-9),
        "energy": total.energy,
        "participation_gini": gini(took_part[: simulation.dataset.num_users]),
        "never_took_part": float(np.mean(took_part[: simulation.dataset.num_users] == 0)),
        "curve": curve,
        "reached": reached,
    }


def _costs_of_round(
    schedule: RoundSchedule, down: np.ndarray, up: np.ndarray, request: np.ndarray, least: int
) -> RoundCosts:
    """The costs of a simulated round.

    Args:
      down, up: bytes of a client that reports [N]. request: bytes that a client sends before it
        trains [N]; a client that does not report has sent only these.
      least: the reports without which none counts.
    """
    responded = schedule.responded
    counted = responded & (responded.sum() >= least)
    sent = up[schedule.sampled[responded]].sum() + request[schedule.sampled[~responded]].sum()
    return RoundCosts(
        sampled=len(schedule.sampled),
        responded=responded.sum(),
        bytes_up=sent,
        bytes_down=down[schedule.sampled].sum(),
        client_s=schedule.busy_s.sum(),
        wasted_s=schedule.busy_s[~counted].sum(),
        server_s=schedule.end_s - schedule.start_s,
    )


def _costs_in_training(
    schedule: RoundSchedule, down: np.ndarray, request: np.ndarray
) -> RoundCosts:
    """The bytes so far of the clients that still train at the end of the round.

    Their other costs belong to the round that lists them as sampled.
    """
    clients = np.zeros(0, np.int64) if schedule.training is None else schedule.training
    return RoundCosts(bytes_down=down[clients].sum(), bytes_up=request[clients].sum())


def metrics_by_tier(
    simulation: Simulation, seed: int, ahead: np.ndarray, tied: np.ndarray
) -> dict[str, Any]:
    """Test metrics of the clients of each tier of speed, in percent.

    "largest_difference" is (best - worst) / mean of the tiers' NDCG@50 (after RF^2, Maeng et al.
    2022, who compare changes against training without tiers).
    """
    dataset = simulation.dataset
    tier = hardware_of(simulation.setup).tier(seed, np.arange(dataset.num_users))
    values = user_metrics(ahead, tied, dataset.test)
    result: dict[str, Any] = {}
    for number, name in enumerate(TIERS):
        chosen = (tier == number) & ~np.isnan(values["ndcg@50"])
        result[name] = {"users": int(chosen.sum())}
        if chosen.any():
            result[name] |= {
                metric: 100 * float(values[metric][chosen].mean())
                for metric in ("hr@50", "ndcg@50")
            }
    found = [part["ndcg@50"] for part in result.values() if "ndcg@50" in part]
    mean = float(np.mean(found)) if found else 0.0
    result["largest_difference"] = (max(found) - min(found)) / mean if mean else 0.0
    return result
