"""Which clients are sampled, which of them respond, and for how many local epochs they train."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.config import FederationConfig
from fedvlr_jax.federated.streams import EPOCHS, RESPONSE, stream
from fedvlr_jax.privacy.secure_rounds import least_answers
from fedvlr_jax.types import Array, Cohort, Histories, ServerState


def _sampler(seed: int, round_number: int) -> np.random.Generator:
    """The generator of a round's cohort; equal for equal seeds."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, round_number))))


def sampled_clients(seed: int, round_number: int, num_clients: int, cohort: int) -> np.ndarray:
    """int64 [cohort]: a uniform draw without replacement, ascending; equal for equal seeds."""
    generator = _sampler(seed, round_number)
    return np.sort(generator.choice(num_clients, cohort, replace=False, shuffle=False))


def poisson_clients(
    seed: int, round_number: int, num_clients: int, cohort: int, places: int
) -> np.ndarray:
    """int64 [at most places]: each client with probability cohort / num_clients, ascending.

    If more than `places` are sampled, a uniformly drawn subset is kept. Equal for equal seeds.
    """
    generator = _sampler(seed, round_number)
    sampled = np.flatnonzero(generator.random(num_clients) < cohort / num_clients)
    if len(sampled) > places:
        sampled = np.sort(generator.choice(sampled, places, replace=False, shuffle=False))
    return sampled


def banded_clients(
    seed: int, round_number: int, num_clients: int, cohort: int, bands: int
) -> np.ndarray:
    """int64: a Poisson sample of the round's group, ascending.

    Client u is in group u mod `bands`, and group r mod `bands` is sampled in round r, each member
    with probability bands * cohort / num_clients. A client is therefore in at most one of any
    `bands` rounds in a row. Equal for equal seeds.
    """
    group = np.arange(round_number % bands, num_clients, bands)
    drawn = _sampler(seed, round_number).random(len(group))
    return group[drawn < bands * cohort / num_clients]


def poisson_capacities(bucket_sizes: list[int], cohort: int, places: int) -> list[int]:
    """Static capacity of each bucket in a Poisson cohort of at most `places`.

    The number of a bucket's clients is binomial; the capacity is seven standard deviations above
    its mean. If a bucket exceeds it, the round recompiles.
    """
    chance = cohort / sum(bucket_sizes)
    deviations = [(size * chance * (1 - chance)) ** 0.5 for size in bucket_sizes]
    pairs = zip(bucket_sizes, deviations, strict=True)
    return [min(n, places, int(np.ceil(n * chance + 7 * s)) + 1) for n, s in pairs]


def bucket_capacities(bucket_sizes: list[int], cohort: int) -> list[int]:
    """Static capacity of each bucket in a uniformly drawn cohort.

    The number of a bucket's clients in a cohort is hypergeometric. The capacity is six standard
    deviations above its mean, so that one compiled round serves all cohorts. If a bucket exceeds
    it (about one round in 1e9), the round recompiles.
    """
    total = sum(bucket_sizes)
    capacities = []
    for size in bucket_sizes:
        share = size / total
        variance = cohort * share * (1 - share) * (total - cohort) / max(total - 1, 1)
        capacities.append(min(size, cohort, int(np.ceil(cohort * share + 6 * variance**0.5)) + 1))
    return capacities


def stays(
    key: jax.Array, round_number: jax.Array | int, client: Array, client_dropout: float
) -> jax.Array:
    """bool [K]: whether each client responds in a round that samples it."""
    draw = lambda c: jax.random.uniform(stream(key, RESPONSE, round_number, c))
    return jax.vmap(draw)(client) >= client_dropout


def local_epochs_of(
    key: jax.Array, round_number: jax.Array | int, client: Array, config: FederationConfig
) -> jax.Array:
    """int32 [K]: how many epochs each client trains, on the broadcast of a round."""
    if not config.min_local_epochs:
        return jnp.full(client.shape, config.local_epochs, jnp.int32)
    draw = lambda c: jax.random.randint(
        stream(key, EPOCHS, round_number, c),
        (),
        config.min_local_epochs,
        config.local_epochs + 1,
    )
    return jax.vmap(draw)(client)


def make_cohort(
    key: jax.Array,
    round_number: jax.Array,
    histories: Histories,
    sampled: jax.Array,
    weight: str,
    config: FederationConfig,
) -> Cohort:
    """The cohort of the sampled clients: which of them respond, and for how many epochs they train.

    Both are drawn from (key, round, client), so they do not depend on a client's row.

    Args:
      sampled: bool [K]; False in padding.
      weight: "equal" or "history".
    """
    client = histories.client
    responded = sampled
    if config.client_dropout:
        responded &= stays(key, round_number, client, config.client_dropout)
    return Cohort(
        histories=histories,
        responded=responded,
        local_epochs=local_epochs_of(key, round_number, client, config),
        weight=jnp.asarray(histories.count, float)
        if weight == "history"
        else jnp.ones(client.shape),
    )


def make_cohorts(
    server: ServerState,
    histories: Sequence[Histories],
    sampled: Sequence[jax.Array],
    weight: str,
    config: FederationConfig,
) -> tuple[Cohort, ...]:
    """`make_cohort` of each bucket, in the server's round.

    A secure sum aborts if fewer clients respond than its threshold. Then no client counts as
    having responded.
    """
    cohorts = tuple(
        make_cohort(server.key, server.round, h, a, weight, config)
        for h, a in zip(histories, sampled, strict=True)
    )
    if config.aggregation != "secure":
        return cohorts
    responded = jnp.sum(jnp.concatenate([cohort.responded for cohort in cohorts]))
    num_sampled = config.cohort or jnp.sum(jnp.concatenate(sampled))
    enough = responded >= least_answers(config.secure_threshold, num_sampled)
    return tuple(
        dataclasses.replace(cohort, responded=cohort.responded & enough) for cohort in cohorts
    )
