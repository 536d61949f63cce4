"""When a run stops, what it selects, and what its evaluations say of the rounds between them."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError, NonFiniteError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.evaluation.selection import resolve_selection
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training import RunState, position, taken_up, train
from fedvlr_jax.training.loop import record
from fedvlr_jax.training.schedule import block_length, why_stopped
from fedvlr_jax.training.timing import Clock

SMALL = dict(width=8, router_hidden=8, local_epochs=2, baselines=False)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})


def evaluated(*rounds, best):
    """Evaluations after these rounds, that of round `best` the best from there on."""
    return [{"round": r, "best_round": best if r >= best else rounds[0]} for r in rounds]


def test_patience_counts_evaluations_since_the_best():
    config = Config.from_flat(patience=2, rounds=100)
    assert why_stopped(config, []) == ""
    assert why_stopped(config, evaluated(0, 5, 10, best=5)) == ""
    assert why_stopped(config, evaluated(0, 5, 10, 15, best=5)) == "patience"
    assert why_stopped(config, evaluated(0, 5, 10, best=0)) == "patience"
    assert why_stopped(config, evaluated(0, 95, 100, best=95)) == "rounds"
    never = Config.from_flat(patience=0, rounds=100)
    assert why_stopped(never, evaluated(5, 10, 15, 20, best=5)) == ""


def test_an_evaluation_that_only_the_end_asks_for_ends_no_patience():
    """With more rounds it would not be made."""
    short = Config.from_flat(patience=2, rounds=7)
    assert why_stopped(short, evaluated(0, 5, 7, best=0)) == "rounds"


def test_a_run_that_ends_before_its_trained_rounds_is_refused_by_name():
    ended = evaluated(0, 5, 10, 15, 17, best=5)
    # Patience 2 ends after round 15, of which round 17 is beyond; 3 does not, as it has no third.
    assert position(Config.from_flat(rounds=17, patience=3), ended, 17) == "rounds"
    assert position(Config.from_flat(rounds=20, patience=3), ended, 17) == ""
    with pytest.raises(InputError, match=r"patience=2: ends the run after round 15, .* 17 .*=3 "):
        position(Config.from_flat(rounds=20, patience=2), ended, 17)
    with pytest.raises(InputError, match=r"rounds=16: .* trained 17 rounds.* rounds=17 or"):
        position(Config.from_flat(rounds=16), ended, 17)


def test_the_end_of_an_older_version_that_cannot_be_taken_back_is_refused(dataset):
    """Its checkpoint has no best state of before the end."""
    short = Config.from_flat(**SMALL, rounds=1, eval_every=2)
    run, _ = train(make_simulation(short, dataset))
    assert run.before_end is not None
    more = Config.from_flat(**SMALL, rounds=2, eval_every=2)
    assert taken_up(more, run).evaluations == run.evaluations[:1]
    with pytest.raises(InputError, match=r"rounds=2: the run ended after round 1, .* version"):
        taken_up(more, run._replace(before_end=None))


def test_evaluations_fall_on_multiples_and_on_the_end():
    config = Config.from_flat(rounds=12, eval_every=5)
    assert [block_length(config, finished) for finished in (0, 5, 7, 10, 12)] == [5, 5, 3, 2, 0]


def as_judged(config, dataset):
    """What `record` asks of a simulation."""
    selection = resolve_selection(config.evaluation.selection, dataset)
    return types.SimpleNamespace(config=config, dataset=dataset, selection=selection)


@pytest.mark.parametrize(("select", "best"), [("auto", 0), ("all_hr@50", 1), ("all_hr@10", 0)])
def test_the_earliest_round_with_the_best_validation_ndcg_is_selected(dataset, select, best):
    """HR and NDCG disagree: half of the users at rank 1, then all at rank 50, then as at first."""
    config = Config.from_flat(patience=0, select=select)
    simulation = as_judged(config, dataset)
    targets = np.zeros(dataset.num_users, np.int32)
    half = np.where(np.arange(dataset.num_users) % 2, 59, targets)
    run = RunState(None, None, 0, (), None, "")
    for finished, ahead in enumerate((half, targets + 49, half)):
        ranks = Ranks(ahead, targets, np.ones(dataset.num_users, bool))
        run = record(run, simulation, finished, None, ranks, lambda at=finished: at)
    hr, ndcg = zip(
        *((e["valid"]["hr@50"], e["valid"]["ndcg@50"]) for e in run.evaluations), strict=True
    )
    assert hr == (50, 100, 50) and ndcg[0] == 50 > ndcg[1]
    assert run.best_round == run.best_state == best


def test_rounds_are_selected_by_the_warm_targets_where_some_are_cold(dataset):
    """Cold targets do better in the later round; warm ones, which are judged, do worse."""
    cold = dataset.train.item_counts[dataset.valid.item] == 0
    cold[:3] = True
    counts = dataset.train.item_counts.copy()
    counts[dataset.valid.item[cold]] = 0
    train_part = dataset.train.of_users(np.arange(dataset.num_users))
    train_part.__dict__["item_counts"] = counts
    mixed = dataclasses.replace(dataset, train=train_part, test=dataset.valid)
    simulation = as_judged(Config.from_flat(patience=0), mixed)
    run = RunState(None, None, 0, (), None, "")
    warm = counts[dataset.valid.item] > 0
    for finished, (of_warm, of_cold) in enumerate([(10, 59), (20, 0)]):
        ahead = np.where(warm, of_warm, of_cold).astype(np.int32)
        ranks = Ranks(ahead, np.zeros_like(ahead), np.ones(dataset.num_users, bool))
        run = record(run, simulation, finished, None, ranks, lambda at=finished: at)
    assert (
        run.evaluations[0]["valid"]["warm"]["ndcg@50"]
        > (run.evaluations[1]["valid"]["warm"]["ndcg@50"])
    )
    assert run.best_round == 0


def test_the_initial_state_is_a_candidate(dataset):
    """Steps that only harm: what training began with is what is tested."""
    config = Config.from_flat(
        **SMALL, fusion="none", init="spectral", loss="bce", rounds=4, eval_every=2, client_lr=1e4
    )
    simulation = make_simulation(config, dataset)
    run, _ = train(simulation)
    assert [entry["round"] for entry in run.evaluations] == [0, 2, 4]
    first = run.evaluations[0]
    assert first["loss"] is None and first["participants"] is None
    assert run.best_round == 0
    assert first["valid"]["ndcg@50"] > run.evaluations[1]["valid"]["ndcg@50"]
    initial = simulation.init()
    assert np.array_equal(run.best_state.server.shared["items"], initial.server.shared["items"])
    ranks = simulation.evaluate(initial, "valid")
    assert first["valid"] == averages(ranks.ahead, ranks.tied, dataset, "valid", (10, 20, 50))


def test_without_validation_targets_the_last_state_counts_and_patience_does_not(dataset):
    nobody = Interactions(
        indptr=np.zeros(dataset.num_users + 1, np.int64),
        item=np.empty(0, np.int32),
        time=np.empty(0, np.int64),
        num_items=dataset.num_items,
    )
    config = Config.from_flat(**SMALL, rounds=6, eval_every=1, patience=1)
    run, _ = train(make_simulation(config, dataclasses.replace(dataset, valid=nobody)))
    assert (run.stopped, run.best_round, run.round) == ("rounds", 6, 6)
    for best, last in zip(
        jax.tree.leaves(run.best_state.private), jax.tree.leaves(run.state.private), strict=True
    ):
        assert np.array_equal(best, last)


@pytest.mark.parametrize("store", ["device", "host"])
@pytest.mark.slow
def test_a_round_that_nobody_answers_moves_nothing_but_its_number(store, dataset):
    config = Config.from_flat(**SMALL, cohort=1, client_dropout=0.7, store=store)
    simulation = make_simulation(config, dataset)
    state, silent = simulation.init(), 0
    for number in range(8):
        before = jax.device_get((state.server.shared, state.server.optimizer))
        state, metrics = simulation.run_rounds(state, 1)
        after = jax.device_get((state.server.shared, state.server.optimizer))
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        same = all(np.array_equal(a, b) for a, b in pairs)
        assert same == (metrics.participants[0] == 0)
        assert int(state.server.round) == number + 1
        silent += same
    assert 0 < silent < 8


@pytest.mark.slow
def test_an_evaluation_means_over_those_who_took_part(dataset):
    config = Config.from_flat(**SMALL, cohort=1, client_dropout=0.7, rounds=8, eval_every=8)
    simulation = make_simulation(config, dataset)
    _, metrics = simulation.run_rounds(simulation.init(), 8)
    run, _ = train(simulation)
    entry = run.evaluations[-1]
    answered = metrics.participants > 0
    assert 0 < answered.sum() < 8
    assert entry["loss"] == pytest.approx(metrics.loss[answered].mean(), rel=1e-6)
    assert entry["participants"] == metrics.participants.mean()


PRIVATE = dict(
    **dict(privacy="central", sampling="poisson", aggregation="fixed_mean", noise="central"),
    **dict(clip_norm=1.0, noise_multiplier=1.0, target_delta=1e-3),
)


@pytest.mark.parametrize(("store", "more"), [("device", {}), ("host", {}), ("device", PRIVATE)])
@pytest.mark.slow
def test_after_a_round_that_is_not_finite_nothing_moves(store, more, dataset):
    """One client of 40 is poisoned; which round asks it is known, and the state is of before it."""
    config = Config.from_flat(**SMALL, cohort=5, store=store, **more)
    simulation = make_simulation(config, dataset)
    asked = [simulation.sampling.sampled_rows(0, number)[0] for number in range(12)]
    at = 4
    poisoned = next(c for c in asked[at] if not any(c in rows for rows in asked[:at]))
    state, _ = simulation.run_rounds(simulation.init(), at)
    good = jax.device_get((state.server.shared, state.server.optimizer))

    state = simulation.init()
    if store == "device":
        vector = state.private[0]["head"]["vector"].at[poisoned].set(np.nan)
        state.private[0]["head"]["vector"] = vector
    else:
        row = jax.tree.map(
            lambda leaf: np.full((1, *leaf.shape), np.nan, leaf.dtype),
            simulation.initial.client_shapes,
        )
        state.private.stage(np.array([poisoned]), row)
        state.private.commit()
    with pytest.raises(NonFiniteError, match=f"round {at}:") as caught:
        simulation.run_rounds(state, 12)
    kept = caught.value.state
    assert int(kept.server.round) == at
    left = jax.device_get((kept.server.shared, kept.server.optimizer))
    for a, b in zip(jax.tree.leaves(good), jax.tree.leaves(left), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_cohorts_are_of_the_seed_that_a_state_was_made_of(dataset):
    choices = dict(**SMALL, cohort=5)
    of_config = make_simulation(Config.from_flat(**choices, seed=5), dataset)
    of_call = make_simulation(Config.from_flat(**choices), dataset)
    one, _ = of_config.run_rounds(of_config.init(), 3)
    other, _ = of_call.run_rounds(of_call.init(seed=5), 3)
    for a, b in zip(jax.tree.leaves(one.private), jax.tree.leaves(other.private), strict=True):
        assert np.array_equal(a, b)


def test_the_first_block_is_in_no_median():
    clock = Clock()
    assert clock.read().round_s_median is None
    clock.block(5, 50.0, 9.0)
    timing = clock.read()
    assert (timing.first_block_s, timing.round_s_median, timing.eval_s_median) == (50.0, None, None)
    clock.block(5, 1.0, 0.5)
    timing = clock.read()
    assert (timing.round_s_median, timing.eval_s_median) == (0.2, 0.5)
