"""Buffered asynchronous rounds: the clock by hand, the step by hand, and whole runs."""

import functools

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.slices import pack_schedule, slices_of
from fedvlr_jax.fleet import RoundSchedule
from fedvlr_jax.fleet.asynchronous import AsynchronousParticipation, BufferRules
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training import train
from fedvlr_jax.training.summary import summarise_run


def clock(cohort, buffer, max_staleness, durations, deadline=0.0, ends=None):
    """Clients in turn; `durations` are of each client, `ends` the end of its only session."""
    clients = len(durations)
    until = np.full(clients, np.inf) if ends is None else np.asarray(ends, float)
    turn = {}

    def choose(seed, number, time, wanted, excluded):
        chosen, at = [], turn.get(seed, 0)
        for step in range(clients):
            client = (at + step) % clients
            if len(chosen) < wanted and client not in excluded and until[client] > time:
                chosen.append(client)
        if chosen:
            turn[seed] = chosen[-1] + 1
        chosen = np.sort(np.array(chosen, np.int64))
        return chosen, until[chosen]

    duration = lambda seed, chosen, *_: np.asarray(durations, float)[chosen]
    return AsynchronousParticipation(
        BufferRules(cohort, buffer, max_staleness, deadline), choose, duration
    )


def test_twenty_events_by_hand():
    """Five clients need 1, 2, 3, 4 and 10 s; three train at a time, two uploads are a step.

    time  who reports  (downloaded)  begins
     0                               0 1 2 on version 0
     1    0            (0)           3
     2    1            (0)           step 1; the next begins on version 1: 4
     3    2            (0)           0 on 1
     4    0            (1)           step 2; 1 on 2
     5    3            (0)           2 on 2
     6    1            (2)           step 3; 3 on 3
     8    2            (2)           0 on 3
     9    0            (3)           step 4; 1 on 4
    10    3            (3)           2 on 4
    11    1            (4)           step 5; 3 on 5
    12    4            (1)           0 on 5
    13    0, 2: a tie, 0 first (5); step 6
    """
    rounds = clock(3, 2, 10, [1, 2, 3, 4, 10])
    found = [rounds.round(0, number) for number in range(6)]
    steps = [(s.sampled.tolist(), s.staleness.tolist(), s.start_s, s.end_s) for s in found]
    assert steps == [
        ([0, 1], [0, 0], 0, 2),
        ([0, 2], [0, 1], 2, 4),
        ([1, 3], [0, 2], 4, 6),
        ([0, 2], [0, 1], 6, 9),
        ([1, 3], [0, 1], 9, 11),
        ([0, 4], [0, 4], 11, 13),
    ]
    assert all(schedule.responded.all() for schedule in found)
    assert found[5].busy_s.tolist() == [1, 10]
    still = [s.training.tolist() for s in found]
    assert still == [[2, 3], [3, 4], [2, 4], [3, 4], [2, 4], [2, 3]]


def test_a_client_is_as_fast_as_its_work_there():
    """Its work is drawn for the version that it downloaded."""
    rounds = clock(3, 2, 10, [1, 2, 3, 4, 10])
    rounds._duration = lambda seed, chosen, number, version: np.full(len(chosen), 1.0 + version)
    for number in range(6):
        found = rounds.round(0, number)
        np.testing.assert_array_equal(found.busy_s, 1.0 + number - found.staleness)


def test_clients_that_fell_behind_are_stopped():
    """As above, with one version back at most: client 3 is stopped at step 2, at time 4."""
    second = clock(3, 2, 1, [1, 2, 3, 4, 10]).round(0, 1)
    assert second.sampled.tolist() == [0, 2, 3]
    assert second.responded.tolist() == [True, True, False]
    # It began at 1.
    assert second.busy_s.tolist() == [1, 3, 3]


def test_a_lost_client_makes_room():
    """Client 0's session ends at 1 s, and client 1 is slower than the deadline."""
    first = clock(2, 1, 5, [4, 9, 2], deadline=5.0, ends=[1, 50, 50]).round(0, 0)
    assert first.sampled.tolist() == [0, 2]
    assert first.responded.tolist() == [False, True]
    assert first.busy_s.tolist() == [1, 2] and first.end_s == 3


def test_steps_do_not_depend_on_the_order_of_the_calls():
    make = lambda: (
        make_simulation(small(buffer=4, cohort=9, participation="diurnal"), dataset()).participation
    )
    one, other = make(), make()
    forward = [one.round(3, number) for number in range(5)]
    for number in (4, 1, 3):
        for a, b in zip(forward[number], other.round(3, number), strict=True):
            np.testing.assert_array_equal(a, b)
    for step in forward:
        assert step.responded.sum() == 4
        taken = step.sampled[step.responded]
        assert len(np.unique(taken)) == 4


def test_a_deadline_that_nobody_meets_ends_the_run():
    with pytest.raises(InputError, match=r"deadline_s=0\.5: 9 clients in a row did not report"):
        clock(3, 2, 4, [1, 1, 1, 1], deadline=0.5).round(0, 0)


def test_a_day_without_a_client_ends_the_run():
    with pytest.raises(InputError, match="no further client was available for server step 1"):
        clock(2, 2, 4, [1, 1], ends=[50, 0]).round(0, 0)


def test_slices_by_hand():
    """Two buckets; capacities 2 and 8. Three fresh clients of the first bucket need two slices."""
    rows = [np.array([3, 5, 9, 11]), np.array([0, 4])]
    staleness = [np.array([0, 0, 2, 0]), np.array([2, 1])]
    slices = slices_of(rows, staleness, [2, 8])
    found = [(value, [part.tolist() for part in parts]) for value, parts in slices]
    assert found == [
        (0, [[3, 5], []]),
        (0, [[11], []]),
        (1, [[], [4]]),
        (2, [[9], [0]]),
    ]
    first, second, ages = pack_schedule([slices, slices[:1]], [2, 8], [100, 50], 3)
    assert ages.tolist() == [[0, 0, 1, 2], [0] * 4, [0] * 4]
    assert first.tolist()[0] == [3, 5, 11, 100, 100, 100, 9, 100]
    assert first.tolist()[1] == [3, 5] + [100] * 6 and second.shape == (3, 32)


@functools.cache
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 60, "items": 50})


def small(**choices):
    plain = dict(width=4, router_hidden=3, local_epochs=2, rounds=4, eval_every=2, baselines=False)
    return Config.from_flat(**{**plain, **choices})


def after(config, rounds=3, **made):
    simulation = make_simulation(config, dataset(), **made)
    state, metrics = simulation.run_rounds(simulation.init(), rounds)
    return simulation, simulation.pack(state), metrics


def assert_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.long
@pytest.mark.slow
def test_one_version_is_the_synchronous_round_to_the_bit(printed_json):
    """In a process of its own: tests compile without optimization, and bits depend on that."""
    for name, same in printed_json("tests.fleet.buffered_bits").items():
        assert same, name


class Given:
    """Steps that a test says: (clients, staleness)."""

    expected = 8

    def __init__(self, *steps):
        self._steps = steps

    def round(self, seed, number):
        clients, staleness = map(np.asarray, self._steps[number])
        order = np.argsort(clients)
        every = np.ones(len(clients), bool)
        time = float(number)
        return RoundSchedule(clients[order], every, 1.0 * every, time, time + 1, staleness[order])


FRESH = [([3, 7, 14, 20], [0] * 4), ([0, 7, 9, 30], [0] * 4), ([1, 2, 3, 4], [0] * 4)]


def test_fresh_uploads_among_kept_versions_are_a_synchronous_round():
    wide = dict(cohort=8, fusion="bilevel")
    synchronous = after(small(**wide), participation=Given(*FRESH))
    buffered = after(small(buffer=4, max_staleness=3, **wide), participation=Given(*FRESH))
    pairs = [(run[1]["server"].shared, run[1]["private"]) for run in (synchronous, buffered)]
    for a, b in zip(*map(jax.tree.leaves, pairs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    # The server keeps version 3 at its place, and the three before it at theirs.
    versions = buffered[1]["server"].versions["shared"]["items"]
    np.testing.assert_array_equal(versions[3], buffered[1]["server"].shared["items"])
    assert len(np.unique(versions[:, 0, 0])) == 4


STALE = [
    dict(fusion="bilevel"),
    pytest.param(
        dict(fusion="mlp", backbone="fedncf", negatives="sampled"), marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize("kind", STALE, ids=["dense", "gathered"])
def test_a_stale_step_by_synchronous_rounds(kind):
    """The third step takes one upload of each of three versions. Under SGD its change of the server
    is the sum of the changes that each client alone makes from its version, by weight."""
    plain = dict(server_optimizer="sgd", server_decay=0.0, server_lr_items=1.0, **kind)
    steps = [*FRESH[:2], ([40, 41, 42], [0, 1, 2])]
    config = small(cohort=8, buffer=4, max_staleness=2, **plain)
    simulation, whole, _ = after(config, participation=Given(*steps))
    synchronous = small(cohort=8, **plain)
    shared, alone = [], []
    for version, client in ((0, 42), (1, 41), (2, 40)):
        given = Given(*FRESH[:version], ([client], [0]))
        base = make_simulation(synchronous, dataset(), participation=given)
        state = base.init()
        if version:
            state, _ = base.run_rounds(state, version)
        shared.append(jax.device_get(state.server.shared))
        after_one, _ = base.run_rounds(state, 1)
        packed = base.pack(after_one)
        alone.append(jax.tree.map(np.subtract, packed["server"].shared, shared[-1]))
        pair = jax.tree.leaves(packed["private"]), jax.tree.leaves(whole["private"])
        for a, b in zip(*pair, strict=True):
            np.testing.assert_allclose(a[client], b[client], rtol=1e-5, atol=1e-7)
    histories = dataset().train.counts[[42, 41, 40]].astype(float)
    weight = histories if simulation.model.backbone.weight == "history" else np.ones(3)
    weight = weight / weight.sum() / np.sqrt([3, 2, 1])
    expected = jax.tree.map(
        lambda start, *parts: start + sum(w * p for w, p in zip(weight, parts, strict=True)),
        shared[2],
        *alone,
    )
    found = whole["server"].shared
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def test_a_divided_run_is_a_whole_one_to_the_bit():
    buffered = dict(buffer=5, cohort=15, max_staleness=4, participation="uniform")
    # Up to six rounds are one program.
    config = small(eval_every=6, fusion="none", **buffered)
    whole, packed, metrics = after(config, 6)
    assert (metrics.participants == 5).all()
    state, _ = whole.run_rounds(whole.init(), 2)
    kept = whole.pack(state)
    again = make_simulation(config, dataset())
    other, _ = again.run_rounds(again.unpack(kept), 4)
    other = again.pack(other)
    assert_equal(packed["server"]._replace(key=()), other["server"]._replace(key=()))
    assert_equal(packed["private"], other["private"])


def test_a_number_that_is_not_finite_changes_nothing():
    config = small(buffer=4, cohort=12, server_lr_items=1e38, server_optimizer="sgd", fusion="none")
    simulation = make_simulation(config, dataset())
    with pytest.raises(ArithmeticError) as caught:
        simulation.run_rounds(simulation.init(), 8)
    state = caught.value.state
    number = int(state.server.round)
    again = make_simulation(config, dataset())
    expected = again.init()
    if number:
        expected, _ = again.run_rounds(expected, number)
    one, other = simulation.pack(state), again.pack(expected)
    assert_equal(one["server"]._replace(key=()), other["server"]._replace(key=()))
    assert_equal(one["private"], other["private"])


def test_a_run_reports_its_staleness():
    simulation = make_simulation(small(buffer=4, cohort=12, fusion="none"), dataset())
    run, timing = train(simulation)
    costs = summarise_run(simulation, run, timing)[0]["costs"]
    assert costs["responded"] == 16 and 0 < costs["mean_staleness"] <= 3
    assert costs["max_staleness"] <= 10
    # Twelve train at any time but at the end of a step, when the last to report is not replaced.
    assert costs["bytes_down"] == (costs["sampled"] + 11) * costs["client_round_bytes"]["down"]
    assert costs["bytes_up"] == 16 * costs["client_round_bytes"]["up"]["dense"]


@pytest.mark.parametrize(
    "choices, piece",
    [
        (dict(buffer=4), "--buffer=4: needs --cohort"),
        (dict(buffer=61, cohort=60), "there are 60 clients"),
        (dict(max_staleness=3), "--max_staleness=3: synchronous rounds"),
        (dict(buffer=4, cohort=8, over_selection=1.5), "--over_selection=1.5 needs synchronous"),
        (dict(buffer=4, cohort=8, pause_s=5.0), "--pause_s=5 needs synchronous"),
        (dict(buffer=4, cohort=8, store="host"), "not --store=host"),
        (
            dict(buffer=4, cohort=8, aggregation="median"),
            "which --aggregation=median does not",
        ),
        (dict(buffer=4, cohort=8, attack="ipm"), "attacks are defined for synchronous"),
        (dict(buffer=4, cohort=8, noise_multiplier=1.0, clip_norm=1.0), "no privacy statement"),
        (dict(buffer=4, cohort=8, client_dropout=0.1), "--client_dropout=0.1"),
        (dict(buffer=-1), "--buffer=-1"),
    ],
)
def test_what_cannot_be_combined_is_refused(choices, piece):
    with pytest.raises(InputError) as caught:
        make_simulation(small(**choices), dataset())
    assert piece in caught.value.line


def test_a_version_that_the_server_does_not_have_is_refused():
    config = small(buffer=4, cohort=8, max_staleness=2)
    simulation = make_simulation(config, dataset(), participation=Given(([3], [1])))
    with pytest.raises(InputError, match="an upload has staleness 1; in this round"):
        simulation.run_rounds(simulation.init(), 1)
