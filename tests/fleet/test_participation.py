"""The timeline of rounds: by hand, by properties, and inside whole runs."""

import functools

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import make_aggregator
from fedvlr_jax.federated.participation import make_cohort
from fedvlr_jax.fleet import (
    Availability,
    always,
    diurnal,
    make_hardware,
    make_participation,
    uniform,
)
from fedvlr_jax.fleet.clocks import expected_reports
from fedvlr_jax.fleet.participation import RoundSchedule
from fedvlr_jax.fleet.synchronous import Rules, SynchronousParticipation
from fedvlr_jax.fleet.work import Work, duration_s
from fedvlr_jax.settings import key_of
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.workload import hardware_of, work_of
from fedvlr_jax.training import train
from fedvlr_jax.training.costs import gini, summarise_costs
from fedvlr_jax.training.summary import summarise_run


def timeline(clients, availability, cohort=0, over=1.0, deadline=0.0, duration=None):
    work = Work(np.full(clients, 1000.0), np.full(clients, 1000.0), np.full(clients, 50))
    hardware = make_hardware(np.arange(1, clients + 1), 0.0)
    found = SynchronousParticipation(
        clients, availability, hardware, work, Rules(cohort, over, deadline)
    )
    if duration is not None:
        found.duration_s = lambda seed, sampled, number: np.asarray(duration, float)[sampled]
    return found


def test_a_deadline_by_hand():
    """Five clients need 1, 9, 3, 20 and 2 s; client 4's session ends after 1 s."""
    ends = np.array([np.inf, np.inf, np.inf, np.inf, 1.0])
    sessions = Availability(lambda seed, clients, time: time + ends[clients], 1.0)
    rounds = timeline(5, sessions, deadline=10.0, duration=[1, 9, 3, 20, 2])
    first = rounds.round(0, 0)
    np.testing.assert_array_equal(first.sampled, np.arange(5))
    np.testing.assert_array_equal(first.responded, [True, True, True, False, False])
    np.testing.assert_array_equal(first.busy_s, [1, 9, 3, 10, 1])
    # Not all reported, so the server waited for the deadline.
    assert (first.start_s, first.end_s) == (0, 10) and rounds.round(0, 1).start_s == 10


@pytest.mark.parametrize(("left", "end"), [(np.inf, 3.0), (2.5, 10.0)])
def test_a_round_with_fewer_clients_than_it_wants_by_hand(left, end):
    """Three of five are available, four are wanted: it ends with the last of the three, or at the
    deadline if the session of one ends before it reports."""
    ends = np.array([np.inf, -1.0, left, -1.0, np.inf])
    sessions = Availability(lambda seed, clients, time: time + ends[clients], 0.6)
    rounds = timeline(5, sessions, cohort=4, deadline=10.0, duration=[1, 9, 3, 20, 2])
    first = rounds.round(0, 0)
    np.testing.assert_array_equal(first.sampled, [0, 2, 4])
    np.testing.assert_array_equal(first.responded, [True, left > 3, True])
    assert (first.start_s, first.end_s) == (0, end)


def test_over_selection_by_hand():
    """Two uploads end the round of four that are sampled; the others worked until then."""
    rounds = timeline(4, always(), cohort=2, over=2.0, duration=[4, 1, 3, 8])
    first = rounds.round(0, 0)
    np.testing.assert_array_equal(first.responded, [False, True, True, False])
    np.testing.assert_array_equal(first.busy_s, [3, 1, 3, 3])
    assert first.end_s == 3


@pytest.mark.parametrize(("cohort", "over", "sampled"), [(100, 1.1, 110), (7, 1.3, 10)])
def test_over_selection_is_exact_and_rounded_up(cohort, over, sampled):
    """In floats 100 * 1.1 is above 110: that many clients are enough."""
    assert 100 * 1.1 > 110
    clock = timeline(2 * sampled, always(), cohort=cohort, over=over)
    assert len(clock.round(0, 0).sampled) == sampled
    config = Config.from_flat(cohort=cohort, over_selection=over)
    data = load_dataset("synthetic", data_root="", synthetic={"users": sampled, "items": 60})
    make_participation(config, data, Work(*[np.zeros(sampled)] * 3))


def test_a_pause_stands_between_rounds():
    rounds = timeline(3, always(), duration=[4, 1, 3])
    rounds._rules = rounds._rules._replace(pause_s=100.0)
    assert (rounds.round(0, 2).start_s, rounds.round(0, 2).end_s) == (208, 212)


def test_rounds_do_not_depend_on_the_order_of_the_calls():
    make = lambda: timeline(3000, diurnal(), cohort=30, over=1.3, deadline=240.0)
    one, other = make(), make()
    forward = [one.round(3, r) for r in range(6)]
    for number in (5, 2, 0, 4):
        again = other.round(3, number)
        for a, b in zip(forward[number], again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.round(4, 5).sampled, forward[5].sampled)
    for schedule in forward:
        assert len(np.unique(schedule.sampled)) == len(schedule.sampled) == 39
        assert schedule.responded.sum() <= 30


def test_a_uniform_draw_among_the_available():
    """Each of 40 clients, half of them available, is sampled equally often."""
    able = np.arange(40) % 2 == 0
    sessions = Availability(lambda seed, c, time: np.where(able[c], np.inf, time), 0.5)
    rounds = timeline(40, sessions, cohort=5, duration=np.ones(40))
    count = np.zeros(40)
    for number in range(800):
        count[rounds.round(0, number).sampled] += 1
    assert not count[~able].any()
    # 200 expected of each, with a standard deviation of 12.2.
    assert abs(count[able] - 200).max() < 5 * 12.2


def test_candidates_of_a_second_draw_are_new():
    """Two in five are available, where all were expected: the first draw is too small."""
    able = np.arange(4000) % 5 < 2
    sessions = Availability(lambda seed, c, time: np.where(able[c], np.inf, time), 1.0)
    rounds = timeline(4000, sessions, cohort=300, duration=np.ones(4000))
    for number in range(5):
        sampled = rounds.round(0, number).sampled
        assert len(np.unique(sampled)) == 300 and able[sampled].all()


def test_a_cohort_is_found_without_a_look_at_everyone():
    """Of a million clients, about one in twenty available; 1,300 are wanted."""
    plain, looked_at = diurnal(), []

    def until(seed, clients, time):
        looked_at.append(len(clients))
        return plain.until(seed, clients, time)

    rounds = timeline(1_000_000, plain._replace(until=until), cohort=1000, over=1.3, deadline=240.0)
    for number in range(3):
        assert len(rounds.round(0, number).sampled) == 1300
    assert sum(looked_at) / 3 < 1300 / 0.03


def test_three_rounds_without_a_report_end_the_run():
    rounds = timeline(5, always(), deadline=0.5, duration=np.ones(5))
    rounds.round(0, 1)
    with pytest.raises(InputError, match="no client reported in time in rounds 0 to 2"):
        rounds.round(0, 2)


def test_a_round_begins_when_a_client_is_available():
    """Sessions of one hour, eight hours apart: the night is no round without a report."""
    hours = 3600.0
    until = lambda seed, clients, time: (
        np.where(time % (8 * hours) < hours, time - time % (8 * hours) + hours, time)
        * np.ones(len(clients))
    )
    rounds = timeline(3, Availability(until, 1.0), duration=[2000.0, 2000.0, 2000.0])
    found = [rounds.round(0, number) for number in range(3)]
    assert [(r.start_s, r.end_s) for r in found] == [
        (0, 2000),
        # A client that begins at 2000 loses its session at 3600.
        (2000, 3600),
        (28800, 30800),
    ]
    assert [int(r.responded.sum()) for r in found] == [3, 0, 3]


def test_a_day_without_a_client_ends_the_run():
    rounds = timeline(3, Availability(lambda seed, clients, time: 0.0 * clients, 1.0))
    with pytest.raises(InputError, match="no further client was available for round 0"):
        rounds.round(0, 0)


def test_gini_by_hand():
    assert gini(np.array([2, 2, 2])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 4])) == pytest.approx(0.75)
    assert gini(np.array([1, 3])) == pytest.approx(0.25)


@functools.cache
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 60, "items": 50})


def small(**choices):
    plain = dict(width=4, router_hidden=3, local_epochs=1, rounds=4, eval_every=2, baselines=False)
    return Config.from_flat(**{"init": "random", **plain, **choices})


def test_fewer_local_epochs_take_less_time():
    """The clock counts the epochs that the compiled round draws for each client."""
    config = small(local_epochs=5, min_local_epochs=1, participation="uniform")
    simulation = make_simulation(config, dataset())
    work, hardware = work_of(simulation.setup), hardware_of(simulation.setup)
    schedule = simulation.participation.round(3, 2)
    clients = schedule.sampled
    epochs = work.local_epochs(3, clients, 2)
    assert set(epochs) == {1, 2, 3, 4, 5}

    for histories in simulation.on_device.histories:
        sampled = np.isin(histories.client, clients)
        cohort = make_cohort(key_of(3), 2, histories, sampled, "equal", config.federation)
        place = np.searchsorted(clients, np.asarray(histories.client)[sampled])
        np.testing.assert_array_equal(epochs[place], np.asarray(cohort.local_epochs)[sampled])

    whole = work._replace(local_epochs=lambda *_: np.full(len(clients), 5))
    saved = work.rows[clients] * (5 - epochs) * hardware.sample_s(3, clients)
    most = duration_s(hardware, whole, 3, clients, 2, 2)
    # The round waits for all, so each client works until it reports.
    np.testing.assert_allclose(schedule.busy_s, most - saved)


class Given:
    """The clients that a test says."""

    expected = 8

    def __init__(self, *rounds):
        self._rounds = rounds

    def round(self, seed, round_number):
        sampled = np.asarray(self._rounds[round_number])
        time = float(round_number)
        return RoundSchedule(sampled, sampled % 7 != 0, np.ones(len(sampled)), time, time + 1)


def test_a_clock_made_elsewhere_begins_from_random_values():
    """The closed form needs all clients, and such a clock may never ask all."""
    config = small(init="auto")
    assert config.resolved.init.init == "ease"
    simulation = make_simulation(config, dataset(), participation=Given([3, 7]))
    assert simulation.config.init.init == "random" and simulation.setup.initialization is None


@pytest.mark.parametrize("store", ["device", "host"])
def test_clients_that_do_not_report_keep_every_bit(store):
    given = Given([3, 7, 14, 20, 41], [0, 7])
    simulation = make_simulation(small(store=store), dataset(), participation=given)
    start = simulation.pack(simulation.init())
    state, metrics = simulation.run_rounds(simulation.init(), 2)
    assert metrics.participants.tolist() == [3, 0]
    packed = simulation.pack(state)
    rows = {int(c): place for place, c in enumerate(packed["clients"])}
    if store == "host":
        assert set(rows) == {3, 20, 41}
        return
    changed = [
        client
        for client, place in rows.items()
        if any(
            not np.array_equal(a[place], b[place])
            for a, b in zip(
                jax.tree.leaves(start["private"]), jax.tree.leaves(packed["private"]), strict=True
            )
        )
    ]
    assert changed == [3, 20, 41]
    # Nobody reported in the second round: the server's table stays.
    assert int(packed["server"].round) == 2


def test_the_plain_clock_changes_nothing_of_what_is_learnt():
    """A deadline that all meet: the clock runs, and the rounds are those without one."""
    plain = make_simulation(small(), dataset())
    timed = make_simulation(small(deadline_s=1e9), dataset())
    assert plain.participation is None and timed.participation is not None
    one, _ = plain.run_rounds(plain.init(), 2)
    other, _ = timed.run_rounds(timed.init(), 2)
    for a, b in zip(
        jax.tree.leaves(plain.pack(one)["server"].shared),
        jax.tree.leaves(timed.pack(other)["server"].shared),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_divided_run_is_a_whole_one_to_the_bit():
    sampled = dict(participation="uniform", available_share=0.4, cohort=12, over_selection=1.5)
    # Up to four rounds are one program.
    config = small(eval_every=4, **sampled)
    whole, again = make_simulation(config, dataset()), make_simulation(config, dataset())
    one, _ = whole.run_rounds(whole.init(), 4)
    first, _ = whole.run_rounds(whole.init(), 1)
    packed = whole.pack(first)
    other, _ = again.run_rounds(again.unpack(packed), 3)
    for a, b in zip(
        jax.tree.leaves(whole.pack(one)["server"].shared),
        jax.tree.leaves(again.pack(other)["server"].shared),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_run_reports_what_it_cost():
    config = small(participation="uniform", available_share=0.5, cohort=10, over_selection=1.2)
    simulation = make_simulation(config, dataset())
    run, timing = train(simulation)
    summary, _ = summarise_run(simulation, run, timing)
    costs = summary["costs"]
    # 12 are sampled, 10 uploads end a round.
    assert (costs["sampled"], costs["responded"]) == (48, 40)
    per_client = costs["client_round_bytes"]
    assert costs["bytes_down"] == 48 * per_client["down"]
    assert costs["bytes_up"] == pytest.approx(40 * per_client["up"]["dense"])
    assert 0 < costs["simulated_h"] and 0 < costs["wasted_share"] < 1
    assert [point["round"] for point in costs["curve"]] == [0, 2, 4]
    hours = [point["hours"] for point in costs["curve"]]
    assert hours[0] == 0 and hours[-1] == pytest.approx(costs["simulated_h"])
    assert set(summary["tiers"]) == {"low", "mid", "high", "largest_difference"}


def test_the_work_for_an_aborted_secure_sum_is_wasted():
    """Of 4 clients 3 must report. All but multiples of 7 do, and each works for a second."""
    config = small(aggregation="secure", cohort=4, secure_threshold=0.6)
    clock = Given([1, 2, 3, 7], [1, 7, 14, 21])
    costs = summarise_costs(make_simulation(config, dataset(), participation=clock), 0, 2, ())
    assert costs["secure_sum"]["aborted_rounds"] == 1
    assert costs["wasted_share"] == (1 + 4) / 8


@pytest.mark.parametrize(
    "choices, piece",
    [
        (dict(participation="diurnal", client_dropout=0.1), "--client_dropout=0.1"),
        (dict(over_selection=1.5), "needs --cohort"),
        (dict(over_selection=2.0, cohort=50), "asks for more than the 60 clients"),
        (dict(participation="trace"), "--trace="),
        (dict(trace="x.csv"), "--trace=x.csv"),
        (dict(pause_s=5.0), "--pause_s=5: needs a simulated clock"),
        (dict(over_selection=0.5), "--over_selection=0.5"),
        (dict(available_share=0.0), "--available_share=0.0"),
    ],
)
def test_what_cannot_be_combined_is_refused(choices, piece):
    with pytest.raises(InputError) as caught:
        make_simulation(small(**choices), dataset())
    assert piece in caught.value.line


def test_tiers_follow_activity():
    length = np.arange(1, 3001)
    clients = np.arange(3000)
    tied = make_hardware(length, 0.9).tier(0, clients)
    free = make_hardware(length, 0.0).tier(0, clients)
    assert np.corrcoef(tied, length)[0, 1] > 0.7 and abs(np.corrcoef(free, length)[0, 1]) < 0.06
    for tier in (tied, free):
        np.testing.assert_allclose(np.bincount(tier) / 3000, 1 / 3, atol=0.04)


def test_network_by_the_published_fit():
    down, up = make_hardware(np.arange(20_000), 0.0).bytes_a_second(0, np.arange(20_000), 0)
    transfer = np.log1p(0.37**2)
    for rate, (mean, sigma) in ((down, (8.55, 0.47)), (up, (8.04, 0.68))):
        log = np.log(rate / 125)
        assert abs(log.mean() - (mean - transfer / 2)) < 0.02
        assert abs(log.std() - np.sqrt(sigma**2 + transfer)) < 0.02


def test_uniform_is_not_tied_to_a_place():
    at = lambda clients: uniform(0.5).until(1, np.array(clients), 5.0) > 5
    np.testing.assert_array_equal(at([4, 9, 2])[[2, 0, 1]], at([2, 4, 9]))


@pytest.mark.parametrize(
    "flags, expected",
    [
        ({}, 60),
        ({"cohort": 40, "client_dropout": 0.25}, 30),
        ({"cohort": 40, "buffer": 5}, 5),
        ({"participation": "uniform", "available_share": 0.2}, 12),
        ({"participation": "uniform", "available_share": 0.2, "cohort": 40}, 12),
        ({"participation": "uniform", "available_share": 0.2, "cohort": 8}, 8),
    ],
)
def test_a_fixed_denominator_is_the_expected_number_of_reports(flags, expected):
    """One upload of 1 is 1 / expected of the sum."""
    config = Config.from_flat(aggregation="fixed_mean", **flags)
    assert expected_reports(config, 60) == pytest.approx(expected)
    weights = make_aggregator(config, 60).reduce.weights(np.ones(60), np.arange(60) == 7)
    np.testing.assert_allclose(weights, (np.arange(60) == 7) / expected, rtol=1e-6)


def test_a_fixed_denominator_follows_a_clock_of_ones_own():
    own = timeline(40, always(), cohort=5)
    config = Config.from_flat(aggregation="fixed_mean", init="random", fusion="none")
    data = load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 50})
    rule = make_simulation(config, data, participation=own).task.aggregator.reduce
    np.testing.assert_allclose(rule.weights(np.ones(40), np.ones(40, bool)), 1 / 5)


def test_the_costs_hold_the_exchanges_before_the_first_round():
    """A closed form is not free: its bytes and their energy come before round 0."""
    data = load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 50})
    flags = dict(fusion="none", width=4, rounds=1, baselines=False, participation="uniform")
    first, costs = {}, {}
    for init in ("random", "spectral"):
        config = Config.from_flat(**flags, init=init, init_exchanges=2, loss="softmax")
        simulation = make_simulation(config, data)
        costs[init] = summarise_run(simulation, *train(simulation))[0]["costs"]
        first[init] = costs[init]["curve"][0]
    # 50 items: counts, 2 x 36 columns, 4 of the table; 2 x 36 numbers a row of the history.
    down, up = 4 * 50 * (1 + 2 * 36 + 4), 4 * 2 * 36 * data.train.counts
    assert "initialization_bytes" not in costs["random"] and first["random"]["bytes"] == 0
    assert costs["spectral"]["initialization_bytes"] == {"down": down, "up": up.mean()}
    assert first["spectral"]["bytes"] == 40 * down + up.sum() and first["spectral"]["wh"] > 0
    more = costs["spectral"]["bytes_up"] - costs["random"]["bytes_up"]
    assert more == up.sum()


def test_a_duration_by_hand():
    """1000 bytes down at 500 a second, 20 rows of 0.1 s, 300 bytes up at 100 a second: 7 s."""

    class Device:
        bytes_a_second = staticmethod(lambda seed, clients, number: (500.0, 100.0))
        sample_s = staticmethod(lambda seed, clients: 0.1)

    work = Work(np.full(2, 1000.0), np.array([0.0, 300.0]), np.array([0, 20]))
    np.testing.assert_allclose(duration_s(Device(), work, 0, np.array([1, 0]), 0, 0), [7.0, 2.0])


def test_seconds_of_a_row_by_the_published_law():
    """LogNormal(1, 0.6) times 5 ms; clients with a higher score are faster."""
    clients = np.arange(20_000)
    hardware = make_hardware(clients, 0.0)
    seconds = hardware.sample_s(0, clients)
    log = np.log(seconds / 0.005)
    assert abs(log.mean() - 1) < 0.02 and abs(log.std() - 0.6) < 0.02
    score = hardware.speed_score(0, clients)
    assert np.corrcoef(score, log)[0, 1] < -0.999
