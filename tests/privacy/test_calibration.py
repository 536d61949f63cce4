"""What the flags of privacy come to, and which have no statement."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import make_aggregator
from fedvlr_jax.federated.participation import poisson_capacities, poisson_clients
from fedvlr_jax.privacy import calibration
from fedvlr_jax.privacy.release import Release, places_for, release_of
from fedvlr_jax.privacy.statement import lines, statement
from fedvlr_jax.report import render_report
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training import train
from fedvlr_jax.uplink import Upload, private_adaptive_clip

USERS = 60
CENTRAL = dict(privacy="central", aggregation="fixed_mean", clip_norm=0.1, noise_multiplier=2.0)
LOCAL = CENTRAL | {"privacy": "local"}


@pytest.fixture(scope="module")
def dataset():
    sizes = {"users": USERS, "items": 60, "seed": 0}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


def config(**flags):
    small = dict(width=8, local_epochs=1, rounds=4, eval_every=2, baselines=False, fusion="none")
    return Config.from_flat(**(small | flags))


REFUSED = [
    (CENTRAL | {"target_delta": 0.02}, "target_delta=0.02: .* less than 1 / 60 = 0.0167"),
    (CENTRAL | {"target_delta": 0.0}, "target_delta=0.0: give a number between 0 and 1"),
    (CENTRAL | {"noise_multiplier": 0.0}, "privacy=central: give target_epsilon"),
    (
        CENTRAL | {"noise_multiplier": 0.0, "target_epsilon": 1e-7},
        "target_epsilon=1e-07: 4 rounds .* exceed it",
    ),
    (CENTRAL | {"target_epsilon": 0.01}, "target_epsilon=0.01: one round with"),
    (CENTRAL | {"clip_norm": 0.0, "noise_multiplier": 0.0, "target_epsilon": 1.0}, "clip_norm"),
    (CENTRAL | {"aggregation": "float32"}, "with aggregation=float32 .* use .*fixed_mean"),
    (CENTRAL | {"aggregation": "median"}, "with aggregation=median"),
    (LOCAL | {"init": "ease"}, "init=ease: its exchanges carry neither"),
    (
        CENTRAL | {"init": "ease", "privacy": "distributed", "aggregation": "secure"},
        "init=ease: its exchanges carry neither .* privacy=central",
    ),
    (
        CENTRAL | {"init": "ease", "init_ials": 1},
        "init_ials=1: under privacy=central the sweeps of iALS have no noise; leave it out",
    ),
    (
        CENTRAL | {"init": "ease", "init_transitions": 0.5},
        (
            "init_transitions=0.5: under privacy=central the sums over successive items have "
            "no noise; leave it out"
        ),
    ),
    (
        CENTRAL | {"init": "ease", "init_normalization": 0.25},
        "init_normalization=0.25: under privacy=central it needs the counts of the items",
    ),
    (
        CENTRAL | {"init": "ease", "init_router": "history", "fusion": "bilevel"},
        "init=ease: its exchanges carry neither .* init_router=uniform",
    ),
    (
        CENTRAL | {"init": "ease", "init_noise_multiplier": 0.5, "target_epsilon": 4.0},
        "init_noise_multiplier=0.5: the 1 exchanges of init=ease alone spend an epsilon of",
    ),
    (LOCAL | {"init": "spectral"}, "init=spectral: its exchanges carry neither"),
    (
        {"init": "spectral", "clip_norm": 0.1},
        "init=spectral: its exchanges carry neither .* privacy=central",
    ),
    (
        CENTRAL
        | dict(
            init="spectral", sampling="poisson", cohort=20, noise_cohort_size=30, population=900
        ),
        "init=spectral: its exchanges carry neither .* noise_cohort_size=0",
    ),
    (
        CENTRAL | {"init": "spectral", "init_user_power": 0.0},
        "init_user_power=0.0: under privacy=central every answer has length 1",
    ),
    (
        {"init": "spectral", "init_noise_multiplier": 1.0},
        "init_noise_multiplier=1.0: needs privacy=central",
    ),
    (
        CENTRAL | {"init_noise_multiplier": 1.0, "init": "random"},
        "init_noise_multiplier=1.0: init=random has no exchange",
    ),
    (
        CENTRAL | {"init": "spectral", "init_noise_multiplier": 0.5, "target_epsilon": 4.0},
        "init_noise_multiplier=0.5: the 8 exchanges .* alone spend an epsilon of 39.38 of .*=4",
    ),
    (
        CENTRAL | {"init": "spectral", "target_epsilon": 1e-7, "noise_multiplier": 0.0},
        "target_epsilon=1e-07: the exchanges .* exceed it",
    ),
    (
        CENTRAL | {"init_router": "history", "fusion": "bilevel"},
        "init_router=history: its exchanges carry neither",
    ),
    (LOCAL | {"clip_quantile": 0.5}, "privacy=local: with clip_quantile=0.5 the server"),
    (LOCAL | {"noise": "central"}, "privacy=local: the clients add the noise"),
    (CENTRAL | {"sampling": "poisson"}, "sampling=poisson: needs cohort above 0"),
    (
        CENTRAL | {"sampling": "poisson", "cohort": 20, "cohort_places": 10},
        "cohort_places=10: less than the expected",
    ),
    (CENTRAL | {"cohort": 20, "cohort_places": 30}, "cohort_places=30: sampling=fixed"),
    (CENTRAL | {"noise_cohort_size": 100, "cohort": 20}, "noise_cohort_size=100: describes"),
    (
        CENTRAL | {"noise_cohort_size": 100, "cohort": 20, "sampling": "poisson"},
        "noise_cohort_size=100: more than the 60 users",
    ),
    (CENTRAL | {"population": 1000}, "population=1000: needs noise_cohort_size"),
    (
        CENTRAL | {"clip_quantile": 0.5, "cohort": 10, "noise_multiplier": 2.0},
        "clip_quantile=0.5: with 10 clients a round, it needs .* below 1",
    ),
    ({"target_epsilon": 1.0}, "target_epsilon=1.0: needs privacy"),
    (CENTRAL | {"matmul_precision": "bf16"}, "matmul_precision=bf16: rounds the sum of the"),
    (LOCAL | {"noise_bands": 4}, "noise_bands=4: needs privacy=central"),
    (
        CENTRAL | {"noise_bands": 4, "clip_quantile": 0.5},
        "noise_bands=4: needs a fixed bound, but clip_quantile=0.5 moves it",
    ),
    (CENTRAL | {"noise_bands": 4, "cohort": 10}, "noise_bands=4: .* sampling=poisson"),
    (
        CENTRAL | {"noise_bands": 4, "cohort": 10, "sampling": "poisson", "cohort_places": 20},
        "noise_bands=4: .* cohort_places=0",
    ),
    (
        CENTRAL | {"noise_bands": 4, "cohort": 10, "sampling": "poisson", "noise_cohort_size": 20},
        "noise_bands=4: has no statement about the deployment",
    ),
    (
        CENTRAL | {"noise_bands": 4, "cohort": 20, "sampling": "poisson"},
        "noise_bands=4: a group has 15 of the 60 users, fewer than cohort=20",
    ),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_what_has_no_statement_is_refused_before_training(flags, message, dataset):
    with pytest.raises(InputError, match=message) as refused:
        make_simulation(config(**flags), dataset)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, ("everyone", 60, 60, 60)),
        ({"cohort": 60}, ("everyone", 60, 60, 60)),
        ({"cohort": 6}, ("fixed", 60, 6, 60)),
        ({"cohort": 6, "sampling": "poisson", "cohort_places": 9}, ("poisson", 60, 6, 9)),
        (
            {"cohort": 6, "sampling": "poisson", "noise_cohort_size": 50, "population": 1000},
            ("poisson", 1000, 50, 1000),
        ),
    ],
)
def test_what_a_round_releases(flags, expected):
    assert release_of(config(**(CENTRAL | flags)), USERS) == Release(*expected)
    local = config(**(LOCAL | {"cohort": 6}))
    assert release_of(local, USERS) == Release("local", 60, 6, 60)


def noisy(aggregator, clients):
    """What the server adds to a sum of zeros of `clients` expected clients, [I * G * d]."""
    zeros = Upload(jnp.zeros((100, 10, 100)), {})
    weight = aggregator.reduce.weights(jnp.ones(clients), jnp.ones(clients, bool))
    state = aggregator.uplink.init()
    added = aggregator.noise.add(jax.random.key(3), zeros, weight, aggregator.uplink.bound(state))
    return np.asarray(added.views)


@pytest.mark.parametrize(
    ("flags", "deviation"),
    [
        # z S / (cohort (1 - dropout)) = 2 * .1 / (20 * .8)
        (CENTRAL | {"cohort": 20, "client_dropout": 0.2}, 0.0125),
        # 20 clients with .1 * 2 each, over 20: .2 sqrt(20) / 20
        (LOCAL | {"cohort": 20}, 0.2 / 20**0.5),
        # The noise of 500 clients: 2 * .1 / 500
        (
            CENTRAL
            | {
                "cohort": 20,
                "sampling": "poisson",
                "noise_cohort_size": 500,
                "population": 10_000,
            },
            0.0004,
        ),
        # (2^-2 - (2 * 60 / 20)^-2)^-1/2 = 2.1213 of the uploads' own noise, over 60
        (CENTRAL | {"clip_quantile": 0.5}, 2.1213 * 0.1 / 60),
    ],
)
def test_noise_on_every_row(flags, deviation):
    """1e5 numbers: their deviation is known to 0.9 % with a confidence of four sigma."""
    found = noisy(make_aggregator(config(**flags), USERS), config(**flags).federation.cohort or 60)
    rows = found.reshape(100, -1)
    assert found.std() == pytest.approx(deviation, rel=0.009)
    assert abs(found.mean()) < 4 * deviation / 1e5**0.5
    # Every row, alike: a chi-square of 1000 degrees has a relative deviation of 2.2 %.
    assert np.abs(rows.std(axis=1) / deviation - 1).max() < 0.11
    # Normal: the kurtosis of 1e5 draws is 3 within four deviations of sqrt(24 / 1e5).
    assert np.mean((found / found.std()) ** 4) == pytest.approx(3, abs=0.063)
    assert np.abs(np.corrcoef(rows[:20]) - np.eye(20)).max() < 0.16


def test_the_noisy_share_moves_the_bound_with_a_fixed_denominator():
    """b = 1/2 + (1/2 + 1/2 - 1/2) / 8 + .05 n: S exp(-.2 (b - .5))."""
    transform = private_adaptive_clip(2.0, 0.5, clients=8.0, deviation=0.05)
    clipped = jnp.asarray([False, False, True, False])
    present = jnp.asarray([True, True, True, False])
    keys = jax.random.split(jax.random.key(0), 4000)
    move = jax.vmap(lambda key: transform.next_state(key, transform.init(), clipped, present))
    share = 0.5 - np.log(np.asarray(move(keys)) / 2.0) / 0.2
    assert share.mean() == pytest.approx(0.5625, abs=0.004)
    assert share.std() == pytest.approx(0.05, rel=0.05)


def test_a_private_round_that_nobody_responds_to_is_a_round_of_noise(dataset):
    flags = CENTRAL | {"cohort": 20, "client_dropout": 0.999999, "noise_multiplier": 1e-6}
    simulation = make_simulation(config(**flags), dataset)
    state = simulation.init()
    before = np.asarray(state.server.shared["items"])
    state, metrics = simulation.run_rounds(state, 1)
    assert metrics.participants[0] == 0
    assert not np.array_equal(before, state.server.shared["items"])


def test_poisson_cohorts():
    """Each client by itself: counts are binomial, and pairs of clients independent."""
    draws = [poisson_clients(0, r, 50, 10, 50) for r in range(4000)]
    member = np.zeros((4000, 50))
    for line, asked in zip(member, draws, strict=True):
        line[asked] = 1
        assert (np.diff(asked) > 0).all()
    # sqrt(.2 * .8 / 4000) = .0063, four of them; variance of the size 50 * .2 * .8 = 8.
    assert np.abs(member.mean(axis=0) - 0.2).max() < 0.026
    assert member.sum(axis=1).var() == pytest.approx(8.0, rel=0.1)
    assert np.abs(np.corrcoef(member.T) - np.eye(50)).max() < 0.07
    # A larger sample is cut to a uniform subset of itself.
    cut = [poisson_clients(0, r, 50, 10, 8) for r in range(4000)]
    assert all(
        set(a) <= set(b) and len(a) == min(8, len(b)) for a, b in zip(cut, draws, strict=True)
    )
    often = np.bincount(np.concatenate(cut), minlength=50) / 4000
    assert np.abs(often - often.mean()).max() < 0.024


def test_places():
    places = places_for(1000, 100)
    assert 150 < places < 190 and places_for(20, 19) == 20
    buckets = poisson_capacities([900, 100], 100, places)
    # 90 + 7 * 9 + 1, and 10 + 7 * 3 + 1.
    assert buckets == [154, 32]


def test_a_poisson_run_is_the_same_from_every_store(dataset):
    flags = CENTRAL | {"cohort": 15, "sampling": "poisson", "clip_quantile": 0.5}
    flags |= {"noise_multiplier": 0.5}
    items = []
    for store in ("device", "host"):
        simulation = make_simulation(config(store=store, **flags), dataset)
        state, _ = simulation.run_rounds(simulation.init(), 3)
        items.append((np.asarray(state.server.shared["items"]), float(state.server.uplink)))
    np.testing.assert_array_equal(items[0][0], items[1][0])
    assert items[0][1] == items[1][1] != np.float32(0.1)


def test_a_target_sets_the_noise_and_keeps_what_is_given(dataset):
    asked = config(**(CENTRAL | {"noise_multiplier": 0.0, "target_epsilon": 2.0}))
    found = calibration.resolved(asked, USERS)
    assert found.federation.rounds == 4 and found.privacy.noise_multiplier > 3
    # A later start with other rounds keeps the noise, and gets the rounds that it affords.
    longer = Config.from_flat(**(found.flat | {"rounds": 9}))
    again = calibration.resolved(longer, USERS)
    assert again.privacy == found.privacy and again.federation.rounds == 4


def test_the_statement_of_a_trained_run(dataset):
    simulation = make_simulation(config(**CENTRAL, protocol="paper", client_dropout=0.1), dataset)
    run, _ = train(simulation)
    for entry in run.evaluations:
        assert entry["loss"] is entry["participants"] is entry["clipped"] is None
    stated = statement(simulation.config, USERS, run.round)
    assert json.loads(json.dumps(stated)) == stated
    # Four rounds of everyone: one Gaussian of 2 / sqrt(4) = 1, by the oracle of it.
    assert stated["epsilon"]["spent"]["pld"] == pytest.approx(4.3772, abs=5e-5)
    assert stated["rounds"] == {"spent": 4, "planned": 4}
    text = " ".join(lines(stated))
    for word in ("add or remove one user", "validation", "finite", "pool|train interaction"):
        assert re.search(word, text), word
    page = render_report({}, {"privacy": stated}, [], {})
    assert "Not covered" in page and "4.377" in page
    assert "Not covered" not in render_report({}, {}, [], {})


def test_without_privacy_nothing_is_stated(dataset):
    plain = config()
    assert calibration.resolved(plain, USERS) is plain and statement(plain, USERS, 3) is None
    assert "privacy.json" not in render_report({}, {}, [], {})
