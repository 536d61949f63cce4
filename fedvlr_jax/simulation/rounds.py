"""Many rounds over clients that all live on the devices, as one pure function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.federated.buffered import make_buffered_step
from fedvlr_jax.federated.cohort_rows import (
    Population,
    gather_rows,
    gather_sampled,
    scatter_rows,
)
from fedvlr_jax.federated.devices import client_sharding, constrain
from fedvlr_jax.federated.participation import make_cohorts
from fedvlr_jax.federated.round import RoundFunction, make_round
from fedvlr_jax.simulation.setup import Setup
from fedvlr_jax.simulation.state import State
from fedvlr_jax.types import METRIC_TYPES, Cohort, Histories, RoundMetrics, ServerState


def make_run(setup: Setup) -> Callable[..., tuple[State, RoundMetrics]]:
    """The loop over rounds, pure; `places` must be static.

    Returns:
      (state, `Population`, schedule, num_rounds, places) -> (state, metrics [places], of which
      the first num_rounds count). `schedule` is as `Sampling.schedule` gives it, for `places`
      rounds.
    """
    round_fn = make_round(setup.task, setup.plan, setup.mesh)
    buffered = None
    if setup.config.fleet.buffer:
        weight = setup.model.backbone.weight
        buffered = make_buffered_step(setup.task, setup.plan, setup.mesh, weight)

    def run(state, population, schedule, num_rounds, places):
        def one_round(state, number, ok):
            if schedule is None:
                return _round_of_everyone(setup, round_fn, population, state, ok)
            rows = tuple(bucket_rows[number] for bucket_rows in schedule)
            if buffered is not None:
                server, private, metrics = buffered(*state, population, rows, ok)
                return State(server, private), metrics
            return _round_of_cohort(setup, round_fn, population, state, rows, ok)

        def step(number, carried):
            # After a round that was not finite no client is sampled any more, which leaves every
            # leaf as it is; a conditional would copy the private rows. Noise that is added
            # without any upload would still move the server.
            state, collected, ok = carried
            before = state.server
            state, metrics = one_round(state, number, ok)
            server = state.server._replace(round=jnp.where(ok, state.server.round, before.round))
            if setup.task.aggregator.noise.always:
                server = trees.select(ok, server, before)
            collected = jax.tree.map(lambda x, y: x.at[number].set(y), collected, metrics)
            return state._replace(server=server), collected, ok & metrics.finite

        collected = RoundMetrics(
            **{name: jnp.zeros(places, kind) for name, kind in METRIC_TYPES.items()}
        )
        start = state, collected, jnp.ones((), bool)
        state, collected, _ = jax.lax.fori_loop(0, num_rounds, step, start)
        return state, collected

    return run


def _cohorts(
    setup: Setup,
    server: ServerState,
    histories: tuple[Histories, ...],
    sampled: Sequence[Any],
) -> tuple[Cohort, ...]:
    weight = setup.model.backbone.weight
    return make_cohorts(server, histories, sampled, weight, setup.config.federation)


def _round_of_everyone(
    setup: Setup, round_fn: RoundFunction, population: Population, state: State, ok: jax.Array
) -> tuple[State, RoundMetrics]:
    """A round that samples every client; none if not `ok` (bool [])."""
    histories, features, rates = population
    sampled = tuple((history.count > 0) & ok for history in histories)
    cohorts = _cohorts(setup, state.server, histories, sampled)
    server, private, metrics = round_fn(state.server, state.private, cohorts, features, rates)
    return State(server, private), metrics


def _round_of_cohort(
    setup: Setup,
    round_fn: RoundFunction,
    population: Population,
    state: State,
    rows: tuple[jax.Array, ...],
    ok: jax.Array,
) -> tuple[State, RoundMetrics]:
    """A round of the sampled rows of each bucket, int32 [K_b]; of none if not `ok` (bool []).

    The rows are gathered, trained and scattered back; those beyond the bucket are padding.
    """
    histories, features, rates = population
    spread = client_sharding(setup.mesh)
    chosen, sampled = gather_sampled(histories, rows, ok)
    cohorts = constrain(_cohorts(setup, state.server, chosen, sampled), spread)
    private = tuple(
        gather_rows(bucket, row) for bucket, row in zip(state.private, rows, strict=True)
    )
    private = constrain(private, spread)
    server, private, metrics = round_fn(state.server, private, cohorts, features, rates)
    return State(server, scatter_rows(state.private, private, rows)), metrics
