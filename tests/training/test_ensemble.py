"""Members trained together are the runs they would have been alone."""

import dataclasses

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training import train
from fedvlr_jax.training.ensemble import ENDED, NOT_FINITE, Hooks, Programs, train_members

SMALL = dict(width=8, router_hidden=8, rounds=6, eval_every=2, local_epochs=2, patience=1)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})


def leaves(state):
    return jax.tree.leaves((state.server.shared, state.server.optimizer, state.private))


@pytest.mark.parametrize("cohort", [0, 15])
@pytest.mark.slow
def test_members_equal_their_own_runs(cohort, dataset):
    config = Config.from_flat(
        **SMALL, cohort=cohort, client_dropout=0.2, negatives="sampled"
    ).resolved
    rates = config.federation.rates
    members = [(3, rates), (4, rates), (3, rates._replace(client_lr=0.5, server_decay=0.0))]
    simulation = make_simulation(config, dataset)
    together, _ = train_members(Programs(simulation), *zip(*members, strict=True))
    beside, _ = train_members(Programs(simulation, at_once=2), *zip(*members, strict=True))
    for (seed, rates), one, other in zip(members, together, beside, strict=True):
        own = dataclasses.replace(
            config,
            federation=dataclasses.replace(config.federation, **rates._asdict()),
            run=dataclasses.replace(config.run, seed=seed),
        )
        alone, _ = train(make_simulation(own, dataset))
        assert one.evaluations == alone.evaluations and one.stopped == alone.stopped
        assert one.best_round == alone.best_round
        for a, b in zip(leaves(one.best_state), leaves(alone.best_state), strict=True):
            assert np.array_equal(a, b)
        # Side by side the device may sum in another order.
        first, second = other.evaluations[1], alone.evaluations[1]
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
        assert first["valid"]["ndcg@50"] == pytest.approx(second["valid"]["ndcg@50"], rel=0.05)


def test_each_member_has_its_own_rates(dataset):
    config = Config.from_flat(**{**SMALL, "rounds": 2}, fusion="none", init="random").resolved
    simulation, rates = make_simulation(config, dataset), config.federation.rates
    still = rates._replace(client_lr=0.0, client_decay=0.0)
    runs, _ = train_members(Programs(simulation), [0, 0], [rates, still])
    initial = jax.tree.leaves(simulation.init(0).private)
    moved = [
        any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(run.state.private), initial, strict=True)
        )
        for run in runs
    ]
    assert moved == [True, False]


@pytest.mark.slow
def test_a_diverging_member_stops_alone(dataset):
    config = Config.from_flat(**SMALL).resolved
    rates = config.federation.rates
    simulation = make_simulation(config, dataset)
    good, bad = rates, rates._replace(client_lr=1e30)
    runs, _ = train_members(Programs(simulation), [0, 0], [bad, good])
    assert runs[0].stopped == NOT_FINITE
    assert runs[1].stopped in ("rounds", "patience") and len(runs[1].evaluations) > 0


def test_a_member_that_its_caller_ends_stops_alone(dataset):
    config = Config.from_flat(**SMALL | dict(patience=0, fusion="none"), init="random").resolved
    rates, seeds = [config.federation.rates] * 2, [3, 4]
    simulation = make_simulation(config, dataset)
    programs = Programs(simulation)
    whole, _ = train_members(programs, seeds, rates)
    ends = lambda runs: [0] if runs[0].evaluations[-1]["round"] == 2 else []
    runs, _ = train_members(programs, seeds, rates, hooks=Hooks(ends=ends))
    assert [run.stopped for run in runs] == [ENDED, "rounds"]
    assert runs[0].evaluations == whole[0].evaluations[:2]
    assert runs[1].evaluations == whole[1].evaluations


def test_members_that_were_left_continue_to_the_bit(dataset):
    config = Config.from_flat(**SMALL | dict(patience=0)).resolved
    rates = [config.federation.rates, config.federation.rates._replace(client_lr=0.5)]
    simulation = make_simulation(config, dataset)
    whole, _ = train_members(Programs(simulation), [3, 4], rates)
    asked = iter([False, True])
    left, _ = train_members(
        Programs(simulation), [3, 4], rates, hooks=Hooks(leave=lambda: next(asked))
    )
    assert [(run.round, run.stopped) for run in left] == [(2, ""), (2, "")]
    continued, _ = train_members(Programs(simulation), [3, 4], rates, runs=left)
    for run, other in zip(whole, continued, strict=True):
        assert run.evaluations == other.evaluations and other.stopped == "rounds"
        for part in ("state", "best_state"):
            pairs = zip(leaves(getattr(run, part)), leaves(getattr(other, part)), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)
