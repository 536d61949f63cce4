"""The privacy statement of a run: the guarantee, the covered releases and the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.config import Config
from fedvlr_jax.privacy.release import Release, release_of
from fedvlr_jax.privacy.secure_rounds import ring_of, secure_cohort

TRUST = {
    "central": "central: the server sees every upload, and adds the noise to their sum",
    "local": "local: each client adds the noise to its own upload; the server is not trusted",
    "distributed": "distributed: each client adds a share of the noise inside a secure sum; the "
    "server sees only the sum, and which clients answer",
}
SAMPLERS = {
    "everyone": "all clients in every round",
    "poisson": "Poisson: each client independently",
    "banded": "Poisson: the groups take turns, each client of the group independently",
    "fixed": "fixed: a fixed number of clients, without replacement",
    "local": "not counted: the server sees which clients upload",
    "distributed": "not counted: the server sees which clients answer",
}
RELATIONS = {
    "central": "add or remove one user",
    "fixed": "replace one user",
    "local": "replace one user",
    "distributed": "zero out one user: it answers as before, and its upload is zeros and noise",
}
COVERED = {
    "central": "the server's state after every round (ID table, operators, shared head, optimizer)",
    "local": "every upload, and therefore the server's state after every round",
    "distributed": "the noisy sum of every round, and therefore the server's state after it",
}
NOT_REPORTED = "training losses, the share of clipped uploads, and how many clients took part"
NOT_COVERED = (
    "the selected round, and the stop by --patience: they depend on the clients' validation items",
    "metrics, baselines and figures of this run, users.npz: measured on the clients' data",
    "a number that is not finite: training stops and names the client",
    (
        "private rows (heads, routers, item rows): they stay on the client; the checkpoints of "
        "this simulation contain them"
    ),
    "other runs on the same data with other seeds: their epsilons add up",
    (
        "other runs on the same data with the same seed: they draw the same cohorts and the same "
        "noise, so the difference of two releases can reveal the uploads"
    ),
    (
        "the random numbers: they follow from the seed, which config.json has, and noise in "
        "floating point is only approximately Gaussian; a deployment needs a secure sampler"
    ),
)


def statement(config: Config, num_users: int, rounds: int) -> dict[str, Any] | None:
    """The statement of a run that has spent `rounds` rounds; None without --privacy.

    Args:
      config: as `calibration.resolved` returned it.

    Returns:
      {"trust_model", "unit", "neighbouring", "aggregation", "sampler": {...}, "noise_bands",
      "noise_multiplier", "upload_noise_multiplier", "exchanges": None or {...},
      "distributed": None or {...}, "clipping": {...}, "rounds": {"spent", "planned"}, "delta",
      "epsilon": {"spent": {"pld", "rdp"}, "planned": {...}}, "target_epsilon", "covered",
      "not_reported", "not_covered", "simulated", "library"}; an epsilon is None if the accountant
      has no event for the release.
    """
    privacy = config.privacy
    if privacy.privacy == "none":
        return None
    from fedvlr_jax.privacy import accounting  # The import takes a second or two.
    from fedvlr_jax.privacy.calibration import upload_multiplier

    release, z = release_of(config, num_users), privacy.noise_multiplier
    planned = max(rounds, config.federation.rounds)
    epsilon = lambda n: _finite(accounting.epsilon(release, z, n, privacy.target_delta)._asdict())
    relation = "fixed" if release.sampler == "fixed" else privacy.privacy
    return {
        "trust_model": TRUST[privacy.privacy],
        "unit": "user: all data of one client",
        "neighbouring": RELATIONS[relation],
        "aggregation": config.federation.aggregation,
        "sampler": {
            "name": SAMPLERS[release.sampler],
            **{key: getattr(release, key) for key in ("sampler", "population", "cohort", "places")},
            "probability": release.probability,
        },
        "noise_bands": release.bands,
        "noise_multiplier": z,
        "upload_noise_multiplier": upload_multiplier(config, z, release.cohort),
        "exchanges": _exchanges(release, privacy.target_delta),
        "distributed": _shares(config, num_users) if privacy.privacy == "distributed" else None,
        "clipping": {"norm": privacy.clip_norm, "quantile": privacy.clip_quantile or None},
        "rounds": {"spent": rounds, "planned": planned},
        "delta": privacy.target_delta,
        "epsilon": {"spent": epsilon(rounds), "planned": epsilon(planned)},
        "target_epsilon": privacy.target_epsilon or None,
        "covered": _covered(config),
        "not_reported": NOT_REPORTED,
        "not_covered": _not_covered(config),
        "simulated": _simulated(config, release, num_users),
        "library": accounting.library(),
    }


def _exchanges(release: Release, delta: float) -> dict[str, Any] | None:
    """The exchanges before the first round, and their own epsilon; None without exchanges."""
    from fedvlr_jax.privacy import accounting

    if not release.exchanges:
        return None
    alone = accounting.epsilon(release, 1.0, 0, delta)
    return {
        "number": release.exchanges,
        "noise_multiplier": release.exchange_multiplier,
        "clients": release.population,
        "epsilon": _finite(alone._asdict()),
    }


def _shares(config: Config, num_users: int) -> dict[str, Any]:
    """The shares of the clients in the noise of a secure sum."""
    cohort, ring = secure_cohort(config, num_users), ring_of(config, num_users)
    return {
        "counted_on": cohort.shares,
        "must_answer": cohort.least,
        "most_clients": cohort.most,
        "honest_share": config.privacy.honest_share,
        "levels": 2 * ring.levels,
        "client_deviation_levels": ring.deviation,
    }


def best_epsilon(epsilon: Mapping[str, float | None]) -> float | None:
    """Epsilon by PLD, or by RDP if PLD has no event."""
    return epsilon["rdp"] if epsilon["pld"] is None else epsilon["pld"]


def _finite(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """The values; None for those that are not finite, which JSON cannot hold."""
    return {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}


def _covered(config: Config) -> list[str]:
    covered = [COVERED[config.privacy.privacy]]
    if config.privacy.clip_quantile:
        covered.append("the bound of clipping, by a noisy share of unclipped uploads")
    if config.init.init != "random":
        covered.append("the ID table before the first round, by the noisy exchanges of all clients")
    return covered


def _not_covered(config: Config) -> list[str]:
    listed = list(NOT_COVERED)
    if config.evaluation.negative_pool == "seen":
        listed.append("--protocol=paper: the set of items with a train interaction")
    if config.privacy.privacy in ("local", "distributed") and config.federation.cohort:
        listed.append("the sampled clients: the accounting assumes every client in every round")
    if config.privacy.privacy == "distributed":
        listed.append("clients that collude with the server beyond 1 - honest_share")
        listed.append("the masks: keys and their shares are simulated, and assumed to be secure")
    if config.federation.client_dropout:
        listed.append("the responding clients: assumed to be independent of the clients' data")
    return listed


def _simulated(config: Config, release: Release, num_users: int) -> str | None:
    """The deployment of --noise_cohort_size; None if the statement is about this run."""
    if not config.privacy.noise_cohort_size:
        return None
    return (
        f"a deployment of {release.population} users with {release.cohort} clients a round; this "
        f"run has {num_users} users and {config.federation.cohort} a round with noise for that "
        "deployment, and is itself NOT covered"
    )


def lines(stated: Mapping[str, Any]) -> list[str]:
    """The statement for a terminal, the most important line first."""
    rounds, sampler = stated["rounds"], stated["sampler"]
    adaptive = ", adaptive" if stated["clipping"]["quantile"] else ""
    target = stated["target_epsilon"]
    text = [
        f"privacy: {stated['trust_model']}",
        f"  now, after {rounds['spent']} rounds: {_guarantee(stated, 'spent')}",
        f"  after {rounds['planned']} rounds: {_guarantee(stated, 'planned')}"
        + (f"; budget {target:g}" if target else ""),
        (
            f"  {stated['neighbouring']} ({stated['unit']}); sampling {sampler['name']}, "
            f"q = {sampler['probability']:.4g} of {sampler['population']} users; noise "
            f"multiplier {stated['noise_multiplier']:.4g}, "
            f"clipping at {stated['clipping']['norm']:g}{adaptive}"
        ),
        f"  uploads are combined by --aggregation={stated['aggregation']}",
        f"  covered: {'; '.join(stated['covered'])}",
        f"  not reported: {stated['not_reported']}",
        *(f"  NOT COVERED: {name}" for name in stated["not_covered"]),
    ]
    if exchanges := stated["exchanges"]:
        plural = "s" * (exchanges["number"] > 1)
        text.insert(
            4,
            f"  before the first round: {exchanges['number']} exchange{plural} with all "
            f"{exchanges['clients']} users, noise multiplier {exchanges['noise_multiplier']:.4g}, "
            f"answers of length 1; alone {_values(exchanges['epsilon'])}",
        )
    if shares := stated["distributed"]:
        text.insert(
            4,
            f"  the guarantee uses the noise of {shares['counted_on']} clients: a round with fewer "
            f"than {shares['must_answer']} answers aborts, and a share of "
            f"{shares['honest_share']:g} of the answering clients is assumed to be honest",
        )
    if stated["noise_bands"] > 1:
        text.insert(
            4,
            f"  a matrix of {stated['noise_bands']} bands correlates the noise of the rounds; the "
            "same number of user groups take turns, and q is the probability within a group",
        )
    if stated["simulated"]:
        text.insert(1, f"  about {stated['simulated']}")
    if stated["trust_model"] == TRUST["local"]:
        text.append("  a local epsilon is not comparable with a central one")
    return [*text, f"  by {stated['library']}"]


def _guarantee(stated: Mapping[str, Any], when: str) -> str:
    return f"{_values(stated['epsilon'][when])} at delta {stated['delta']:g}"


def _values(epsilon: Mapping[str, float | None]) -> str:
    """Epsilon by each accountant with a finite value."""
    values = [
        f"{epsilon[name]:.4g} by {name.upper()}"
        for name in ("pld", "rdp")
        if epsilon[name] is not None
    ]
    return f"epsilon {', '.join(values) or 'infinite'}"
