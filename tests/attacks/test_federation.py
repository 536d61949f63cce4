"""Hostile clients inside whole rounds."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from fedvlr_jax.attacks import plan_hostile, with_hostile
from fedvlr_jax.config import AttackConfig, Config
from fedvlr_jax.contracts import check_dataset
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.exposure import exposure, promoted
from fedvlr_jax.evaluation.metrics import slices
from fedvlr_jax.reduce import REDUCTIONS
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training import train
from fedvlr_jax.training.costs import gini, summarise_costs
from fedvlr_jax.training.summary import summarise_run
from tests.conftest import mostly_slow


@functools.cache
def dataset(users=40, items=60):
    return load_dataset("synthetic", data_root="", synthetic={"users": users, "items": items})


def small(**choices):
    plain = dict(fusion="none", width=4, local_epochs=2, rounds=4, eval_every=2, baselines=False)
    plain |= dict(server_optimizer="sgd", server_lr_items=30.0, server_decay=0.0)
    return Config.from_flat(**{"init": "random", **plain, "hostile_share": 0.2, **choices})


def parts_of(simulation):
    return simulation.engine.evaluation.parts


def after(config, rounds=2):
    simulation = make_simulation(config, dataset())
    state, _ = simulation.run_rounds(simulation.init(), rounds)
    return simulation, jax.device_get(state)


@pytest.mark.parametrize("rule", sorted(set(REDUCTIONS) - {"secure", "int32"}))
def test_nan_uploads_never_enter_the_state(rule):
    simulation, state = after(small(attack="not_a_number", aggregation=rule))
    for leaf in jax.tree.leaves((state.server.shared, state.server.optimizer, state.private)):
        assert np.isfinite(leaf).all()
    # The honest uploads have moved it.
    start = simulation.init().server.shared["items"]
    assert np.abs(state.server.shared["items"] - start).max() > 1e-3
    assert int(state.server.round) == 2


@pytest.mark.parametrize("rule", ["float32", "median"])
def test_a_round_with_discarded_uploads_is_one_without_those_clients(rule):
    """From one state, a round's table with NaN uploads is that of the honest clients alone."""
    flags = dict(aggregation=rule, rounds=1)
    _, state = after(small(attack="not_a_number", **flags), rounds=1)
    alone = make_simulation(small(**flags), dataset())
    expected, _ = alone.run_rounds(alone.init(), 1)
    np.testing.assert_allclose(
        state.server.shared["items"], expected.server.shared["items"], rtol=1e-4, atol=1e-5
    )


def test_the_population_keeps_the_contract_and_its_honest_part():
    config = AttackConfig(attack="scaling", hostile_share=0.1, num_targets=2)
    hostile = plan_hostile(config, dataset())
    larger = with_hostile(config, dataset(), hostile)
    check_dataset(dataclasses.replace(larger))
    assert (hostile.first, hostile.size, larger.num_users) == (40, 4, 44)
    end = len(dataset().train)
    np.testing.assert_array_equal(larger.train.item[:end], dataset().train.item)
    for user in range(40, 44):
        assert set(hostile.targets) <= set(larger.train.of(user))
        assert not len(larger.test.of(user)) and not len(larger.valid.of(user))


def test_the_metrics_of_a_round_are_those_of_the_honest_clients():
    """Before the first step honest clients train as without hostile ones."""
    alone = make_simulation(small(clip_norm=0.05), dataset())
    _, plain = alone.run_rounds(alone.init(), 1)
    simulation = make_simulation(small(clip_norm=0.05, attack="label_flip"), dataset())
    _, attacked = simulation.run_rounds(simulation.init(), 1)
    assert attacked.participants[0] == plain.participants[0] == 40
    np.testing.assert_allclose(attacked.loss[0], plain.loss[0], rtol=1e-5)
    assert attacked.clipped[0] == plain.clipped[0] > 0


def test_the_gini_of_participation_is_that_of_the_honest_clients():
    simulation = make_simulation(small(attack="honest", deadline_s=60.0, cohort=5), dataset())
    count = np.zeros(48)
    for number in range(4):
        schedule = simulation.participation.round(0, number)
        count[schedule.sampled[schedule.responded]] += 1
    costs = summarise_costs(simulation, 0, 4, [])
    assert count[40:].any() and costs["participation_gini"] == gini(count[:40])
    assert costs["never_took_part"] == np.mean(count[:40] == 0)


def test_label_flip_trains_on_what_the_history_is_not():
    hostile = plan_hostile(AttackConfig(), dataset())
    plain = with_hostile(AttackConfig(attack="sign_flip"), dataset(), hostile)
    flipped = with_hostile(AttackConfig(attack="label_flip"), dataset(), hostile)
    for user in range(hostile.first, hostile.first + hostile.size):
        one, other = plain.train.of(user), flipped.train.of(user)
        assert len(one) == len(other) and not set(one) & set(other)


def test_targets_are_cold_or_popular():
    counts = dataset().train.item_counts
    of = lambda kind: plan_hostile(AttackConfig(target_items=kind, num_targets=3), dataset())
    assert counts[of("cold").targets].max() <= np.quantile(counts, 0.1)
    assert counts[of("popular").targets].min() >= np.quantile(counts, 0.9)
    with pytest.raises(InputError, match="num_targets=7"):
        plan_hostile(AttackConfig(num_targets=7), dataset())


def test_no_draw_is_that_of_a_cohort(monkeypatch):
    """A cohort is drawn from (seed, round), with a simulated clock from (seed, round, 1)."""
    begun = []
    real = np.random.default_rng
    monkeypatch.setattr(
        np.random, "default_rng", lambda entropy: begun.append(real(entropy)) or begun[-1]
    )
    config, data = AttackConfig(attack_seed=5, hostile_share=0.2), dataset()
    with_hostile(config, data, plan_hostile(config, data))
    sequences = [generator.bit_generator.seed_seq for generator in begun]
    # Any word of entropy after the seed is the number of a round.
    assert {sequence.entropy for sequence in sequences} == {5}
    assert len({sequence.spawn_key for sequence in sequences} - {()}) == 9


def test_users_count_who_do_not_have_the_target():
    """Of 40 honest users; the hostile ones behind them do not count."""
    data = dataset()
    target = int(np.argmax(data.train.item_counts + data.valid.item_counts))
    own = {int(u) for part in (data.train, data.valid) for u in part.users[part.item == target]}
    config = AttackConfig(hostile_share=0.2)
    population = with_hostile(config, data, plan_hostile(config, data))
    pairs = promoted(population, np.array([target]), 40)
    assert pairs.num_users == 48 and set(pairs.item) == {target}
    assert set(pairs.users) == set(range(40)) - own


def test_exposure_by_hand():
    """Item 7 has four users, item 9 two of them, item 8 none."""
    pairs = Interactions.from_pairs(
        user=[0, 1, 2, 3, 1, 2], item=[7, 7, 7, 7, 9, 9], num_users=5, num_items=10
    )
    # In the order of the users: 7 of user 0, 7 and 9 of user 1, 7 and 9 of user 2, 7 of user 3.
    ahead, tied = np.array([0, 2, 0, 5, 1, 1]), np.array([0, 0, 1, 0, 3, 0])
    found = exposure(ahead, tied, pairs, ks=(1, 3, 100))
    # 7 is first for user 0. 9 is first for user 1 in half of the two orders.
    assert found["er@1"] == pytest.approx((1 / 4 + 0.5 / 2) / 2)
    # 7 is among three for users 0, 1 and 3. 9 is for user 1, and for user 2 at ranks 2 and 3 of 2
    # to 5.
    assert found["er@3"] == pytest.approx((3 / 4 + (1 + 2 / 4) / 2) / 2)
    assert found["er@100"] == 1.0 and found["users"] == 3.0
    nobody = Interactions.from_pairs(user=[], item=[], num_users=5, num_items=10)
    assert exposure(np.zeros(0), np.zeros(0), nobody, ks=(1,)) == {"users": 0.0, "er@1": 0.0}


@pytest.mark.parametrize("store", ["device", "host"])
def test_a_constant_score_exposes_by_chance(store):
    """All scores tie: K places among the items that a user has neither in train nor validation."""
    config = small(attack="pieck_uea", store=store)
    simulation = make_simulation(config, dataset())
    state = simulation.init()
    zero = jax.tree.map(lambda leaf: 0 * leaf, state.server.shared)
    state = state._replace(server=state.server._replace(shared=zero))
    ranks = simulation.evaluate(state, "promoted")
    pairs = parts_of(simulation)["promoted"]
    candidates = 60 - dataset().train.counts - dataset().valid.counts
    np.testing.assert_array_equal(ranks.tied + 1, candidates[pairs.users])
    found = exposure(ranks.ahead, ranks.tied, pairs, ks=(10,))
    assert found["er@10"] == pytest.approx(np.mean(10 / candidates[pairs.users]))


@pytest.mark.parametrize("name", ["pieck_uea", "fedrec"])
def test_stores_plans_and_divided_runs_agree(name):
    config = small(attack=name, aggregation="median", cohort=30)
    simulation, whole = after(config, rounds=4)
    halves = make_simulation(config, dataset())
    state, _ = halves.run_rounds(halves.init(), 2)
    state, _ = halves.run_rounds(halves.unpack(halves.pack(state)), 2)
    for one, other in zip(
        jax.tree.leaves(simulation.pack(whole)["server"].attack),
        jax.tree.leaves(halves.pack(state)["server"].attack),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    items = whole.server.shared["items"]
    np.testing.assert_array_equal(items, state.server.shared["items"])
    for choices in (dict(store="host"), dict(plan="gathered")):
        other = make_simulation(
            small(attack=name, aggregation="median", cohort=30, **choices), dataset()
        )
        found, _ = other.run_rounds(other.init(), 4)
        np.testing.assert_allclose(found.server.shared["items"], items, rtol=2e-4, atol=2e-4)


def test_a_run_reports_the_attack():
    simulation = make_simulation(small(attack="fedrec", fusion="bilevel"), dataset())
    run, timing = train(simulation)
    summary, users = summarise_run(simulation, run, timing)
    attack = summary["attack"]
    assert attack["hostile"] == 8 and 0 <= attack["er@5"] <= attack["er@10"] <= 1
    assert attack["test"]["users"] == summary["test"]["users"]
    for name in ("ndcg@50", "user_id", "history_length", "router_weights"):
        assert len(users[name]) == 40


def test_hostile_histories_change_no_slice_and_no_baseline():
    """Items that only hostile clients have in train stay cold for the users."""
    flags = dict(rounds=1, baselines=True, tune_baselines=False)
    alone = make_simulation(small(**flags), dataset(items=300))
    attacked = make_simulation(small(attack="label_flip", **flags), dataset(items=300))
    assert attacked.dataset.num_users == 40 and attacked.population.num_users == 48
    of = lambda data: slices(data, "test")["cold"].sum()
    assert of(attacked.population) < of(attacked.dataset) == of(alone.dataset) > 0
    assert attacked.selection == alone.selection
    found = [summarise_run(s, *train(s))[0] for s in (alone, attacked)]
    count = lambda summary, part: {name: summary[part][name]["users"] for name in ("warm", "cold")}
    for part in ("valid", "test"):
        assert count(found[0], part) == count(found[1], part)
    assert found[0]["baselines"] == found[1]["baselines"] != {}


def test_a_catalogue_shorter_than_the_lists_has_every_exposure():
    rows = np.arange(12)[:, None] + np.arange(4)[None, :]
    few = Dataset.from_arrays(user=np.repeat(np.arange(12), 4), item=rows.ravel() % 15)
    simulation = make_simulation(small(attack="sign_flip", width=4), few)
    attack = summarise_run(simulation, *train(simulation))[0]["attack"]
    # All 15 items are in a list of 20, so every user who can be shown the target is shown it.
    assert 0.0 <= attack["er@5"] <= attack["er@10"] <= 1.0
    assert attack["er@20"] == 1.0


@pytest.mark.parametrize("name", mostly_slow(["fedrec", "pieck_uea", "pieck_ipe"], 3))
def test_published_attacks_reach_half_of_the_users_against_the_mean(name):
    """A cold target of 1,700 items, 50 hostile clients beside 1,000 honest ones, five rounds."""
    config = small(attack=name, hostile_share=0.05, width=16, local_epochs=5, server_lr_items=300.0)
    simulation = make_simulation(config, dataset(1000, 1700))
    state, _ = simulation.run_rounds(simulation.init(), 5)
    ranks, pairs = simulation.evaluate(state, "promoted"), parts_of(simulation)["promoted"]
    found = exposure(ranks.ahead, ranks.tied, pairs, ks=(10,))
    assert found["er@10"] >= 0.5, found
