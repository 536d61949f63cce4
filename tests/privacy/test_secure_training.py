"""Secure sums inside the compiled round, alone and with distributed noise."""

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.contracts import check_aggregator
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import make_aggregator
from fedvlr_jax.privacy import accounting
from fedvlr_jax.privacy.release import Release, release_of
from fedvlr_jax.privacy.secure_rounds import least_answers, ring_of, secure_cohort
from fedvlr_jax.privacy.secure_sum import cost, neighbours_for, secure_sum
from fedvlr_jax.privacy.statement import lines, statement
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training.costs import secure_sum_costs
from fedvlr_jax.uplink import SlotUploads, Upload
from fedvlr_jax.uplink.discrete_gaussian import discrete_gaussian
from fedvlr_jax.uplink.ring import Ring, client_draws, ring_sum, to_ring

USERS = 60
SECURE = {"aggregation": "secure"}
DISTRIBUTED = dict(privacy="distributed", clip_norm=0.1, noise_multiplier=0.5)


@pytest.fixture(scope="module")
def dataset():
    sizes = {"users": USERS, "items": 60, "seed": 0}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


def config(**flags):
    small = dict(width=8, local_epochs=1, rounds=4, eval_every=2, baselines=False, fusion="none")
    return Config.from_flat(**({"init": "random"} | small | flags))


def uploads(clients=7, items=5, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    rows = scale * rng.normal(size=(clients, items, 2, 3)).astype(np.float32)
    return SlotUploads(
        item=jnp.tile(jnp.arange(items, dtype=jnp.int32), (clients, 1)),
        rows_of_views=jnp.asarray(rows),
        head={"bias": jnp.asarray(rows[:, 0, 0])},
        scale=1.0,
        num_items=items,
        whole=True,
    )


def flat(upload):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(upload)])


@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_the_ring_sum_is_what_the_masked_protocol_gives(scale):
    """Exactly: quantise each upload in NumPy, mask, drop clients out, unmask, and compare."""
    ring, given = Ring(8.0, 2**20), uploads(clients=40, scale=scale)
    dropped = [3, 11, 12, 30]
    alpha = np.ones(40, np.float32)
    alpha[dropped] = 0
    total, clamped = ring_sum(
        ring, given, jnp.asarray(alpha), jnp.arange(40, dtype=jnp.int32), jax.random.key(0)
    )
    rows = given.rows()
    each = np.stack([flat(jax.tree.map(lambda x: x[u], rows)) for u in range(40)])  # noqa: B023
    levels = np.clip(each * (2**20 / 8.0), -(2**20), 2**20)
    sent = np.trunc(levels).astype(np.int64).astype(np.uint32)
    expected = secure_sum(sent, neighbours=32, threshold=17, dropped=dropped)
    np.testing.assert_array_equal(flat(total).astype(np.uint32), expected)
    over = (np.abs(each) > 8.0).any(axis=1) & (alpha > 0)
    np.testing.assert_array_equal(clamped, over)
    assert over.any() == (scale > 1)


def test_an_absent_client_is_not_read():
    given = uploads()
    broken = dataclasses.replace(given, rows_of_views=given.rows_of_views.at[2].set(jnp.nan))
    alpha = jnp.ones(7).at[2].set(0)
    client = jnp.arange(7, dtype=jnp.int32)
    found = [
        ring_sum(Ring(8.0, 100), u, alpha, client, jax.random.key(0))[0] for u in (given, broken)
    ]
    np.testing.assert_array_equal(flat(found[0]), flat(found[1]))
    # Nor does it add noise: only the six others do.
    present = np.delete(np.arange(7), 2)
    rows = dataclasses.replace(
        given,
        item=given.item[present],
        rows_of_views=given.rows_of_views[present],
        head=jax.tree.map(lambda leaf: leaf[present], given.head),
    )
    totals = [
        ring_sum(Ring(8.0, 100, 50.0), *some, jax.random.key(0))[0]
        for some in ((given, alpha, client), (rows, alpha[present], client[present]))
    ]
    np.testing.assert_array_equal(flat(totals[0]), flat(totals[1]))


def test_rounding_makes_no_upload_longer():
    ring, values = Ring(1.0, 1000), np.random.default_rng(0).uniform(-3, 3, 5000).astype(np.float32)
    back = np.asarray(to_ring(ring, jnp.asarray(values))) / 1000
    assert (np.abs(back) <= np.minimum(np.abs(values), 1) + 1e-7).all()
    assert np.abs(back - np.clip(values, -1, 1)).max() < 0.001 + 1e-6


@pytest.mark.parametrize("flags", [SECURE, DISTRIBUTED, SECURE | {"clip_norm": 0.05}])
def test_chunks_and_stores_change_no_bit(flags, dataset):
    """Integers add up alike in any order, and the noise is drawn from (seed, round, client)."""

    def trained(**more):
        simulation = make_simulation(
            config(cohort=20, client_dropout=0.1, **flags, **more), dataset
        )
        state, _ = simulation.run_rounds(simulation.init(), 3)
        return np.asarray(state.server.shared["items"])

    whole = trained()
    for variant in ({"chunk": 3}, {"store": "host", "chunk": 3}):
        np.testing.assert_array_equal(trained(**variant), whole)


def test_it_is_the_mean_but_for_rounding(dataset):
    """FCF weighs all clients alike, so that the secure mean is the weighted mean to 1e-5."""
    tables = []
    for rule in ("float32", "secure"):
        flags = dict(aggregation=rule, secure_bound=1.0 if rule == "secure" else 0.0)
        simulation = make_simulation(config(server_optimizer="sgd", **flags), dataset)
        state, metrics = simulation.run_rounds(simulation.init(), 3)
        tables.append(np.asarray(state.server.shared["items"]))
        assert not metrics.clipped.any()
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-5)


def test_too_few_answers_abort_the_round(dataset):
    """With 20 asked and a threshold of .9, 18 must answer; each does with a chance of .8."""
    flags = SECURE | dict(cohort=20, client_dropout=0.2, secure_threshold=0.9)
    simulation = make_simulation(config(**flags), dataset)
    state = simulation.init()
    answered, moved = [], []
    for _ in range(12):
        before = jax.device_get((state.server.shared, state.private))
        state, metrics = simulation.run_rounds(state, 1)
        after = jax.device_get((state.server.shared, state.private))
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        moved.append(not all(np.array_equal(a, b) for a, b in pairs))
        answered.append(int(metrics.participants[0]))
    assert all(n == 0 or n >= 18 for n in answered) and 0 in answered and max(answered) >= 18
    assert moved == [n > 0 for n in answered]
    assert int(state.server.round) == 12
    found = secure_sum_costs(simulation, 0, 12)
    assert found["aborted_rounds"] == answered.count(0) and found["must_answer"] == 18


def test_costs(dataset):
    simulation = make_simulation(config(**SECURE), dataset)
    found = secure_sum_costs(simulation, 0, 2)
    neighbours = neighbours_for(USERS, 0.67)
    # 60 items of one view with 8 numbers.
    assert (found["up"], found["down"], found["message_rounds"]) == cost(480, neighbours)
    assert found["neighbours"] == neighbours and found["aborted_rounds"] == 0


def test_neighbours_for_a_chance_of_1e9():
    """10,000 clients: the hypergeometric tail; few clients take all others."""
    few = neighbours_for(10_000, 0.67)
    assert few % 2 == 0 and 200 < few < 500
    assert neighbours_for(10_000, 0.9) < 60 < few
    # 13 of 20 are left: of 16 neighbours 9 at least, and 9 > 16 / 2; of 14 perhaps only 7.
    assert neighbours_for(20, 0.67) == 16


REFUSED = [
    ({"secure_bound": 1.0}, "secure_bound=1.0: needs aggregation=secure"),
    (SECURE | {"secure_levels": 2**25}, "secure_levels=33554432: give 2 to 16777216"),
    (SECURE | {"secure_threshold": 0.5}, "secure_threshold=0.5: give a share above 0.5"),
    (SECURE | {"attack": "sign_flip"}, "aggregation=secure: attack=sign_flip"),
    (SECURE | {"upload_rank": 2}, "upload_rank=2: aggregation=secure does not commute"),
    (SECURE | {"upload_format": "sparse"}, "upload_format=sparse saves nothing"),
    (SECURE | {"participation": "uniform"}, "needs? .*give cohort|give cohort"),
    (SECURE | {"clip_norm": 0.1, "noise_multiplier": 1.0}, "give privacy=distributed"),
    (SECURE | {"plan": "catalogue"}, "plan=catalogue: gives sums of uploads alone"),
    (SECURE | {"init": "spectral"}, "init=spectral: its exchanges are plain sums"),
    (
        SECURE | {"privacy": "central", "clip_norm": 0.1, "noise_multiplier": 1.0},
        "privacy=central: with aggregation=secure the noise is not discrete",
    ),
    (DISTRIBUTED | {"aggregation": "fixed_mean"}, "use aggregation=secure, or leave it out"),
    (DISTRIBUTED | {"clip_quantile": 0.5}, "privacy=distributed: with clip_quantile=0.5"),
    (DISTRIBUTED | {"noise": "central"}, "privacy=distributed: the clients add the noise"),
    (DISTRIBUTED | {"honest_share": 0.0}, "honest_share=0.0: give a share above 0"),
    (DISTRIBUTED | {"honest_share": 0.01}, "honest_share=0.01: gives no honest client among"),
    ({"honest_share": 0.5}, "honest_share=0.5: needs privacy=distributed"),
    (DISTRIBUTED | {"secure_levels": 20}, "secure_levels=20: a client's noise has a deviation"),
    (DISTRIBUTED | {"secure_levels": 2**24}, "overflows 32 bits or the noise's table"),
    (DISTRIBUTED | {"target_delta": 0.1}, "target_delta=0.1"),
    (DISTRIBUTED | {"init": "spectral"}, "init=spectral: its exchanges carry neither"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(flags, message, dataset):
    with pytest.raises(InputError, match=message) as refused:
        make_simulation(config(**flags), dataset)
    assert "\n" not in str(refused.value)


def test_an_overflow_is_refused_by_name():
    """Of 1,000 clients each may have (2^31 - 1) / 1000 levels on either side of 0."""
    with pytest.raises(
        InputError, match=r"1000 clients overflows 32 bits .* at most 4294966 levels"
    ):
        ring_of(config(**SECURE, secure_levels=2**23), 1000)
    assert 1000 * ring_of(config(**SECURE, secure_levels=4294966), 1000).levels < 2**31
    for clients in (3, 300, 30_000, 10**6):
        ring = ring_of(config(**SECURE), clients)
        assert clients * ring.levels < 2**31 and ring.levels <= 2**23 and ring.bound == 8.0


def test_the_discrete_gaussian():
    """1e6 draws of deviation 5: moments within five standard errors, and every probability."""
    found = np.asarray(discrete_gaussian(jax.random.key(1), (1_000_000,), 5.0))
    assert abs(found.mean()) < 5 * 5 / 1e3
    assert found.var() == pytest.approx(25, rel=5 * math.sqrt(2 / 1e6))
    assert np.mean((found / found.std()) ** 4) == pytest.approx(3, abs=5 * math.sqrt(24 / 1e6))
    value = np.arange(-15, 16)
    mass = np.exp(-(value**2) / 50) / np.exp(-(np.arange(-60, 61) ** 2) / 50).sum()
    share = np.array([(found == v).mean() for v in value])
    assert (np.abs(share - mass) < 5 * np.sqrt(mass / 1e6)).all()


def test_noise_comes_from_seed_round_and_client():
    like = Upload(jnp.zeros((200, 2, 10), jnp.int32), {"bias": jnp.zeros(3, jnp.int32)})
    draw = lambda key, client: flat(client_draws(64.0, jax.random.key(key), client, like))
    np.testing.assert_array_equal(draw(0, 5), draw(0, 5))
    for other in (draw(0, 6), draw(1, 5)):
        # 4003 pairs: a correlation of 5 / sqrt(4003) = .079 is chance.
        assert abs(np.corrcoef(draw(0, 5), other)[0, 1]) < 0.08


def test_the_noise_of_the_clients_that_are_counted_on_is_central_noise():
    """14 of 20 clients: 14 s^2 = (z S)^2 in levels, whatever the levels."""
    for levels in (0, 2000):
        asked = config(**DISTRIBUTED, cohort=20, secure_levels=levels)
        ring, cohort = ring_of(asked, USERS), secure_cohort(asked, USERS)
        assert cohort == (20, 14, 14) and ring.bound == 0.1
        step = ring.bound / ring.levels
        assert ring.deviation * step * math.sqrt(14) == pytest.approx(0.5 * 0.1)
        assert 20 * ring.levels + 10 * math.sqrt(20) * ring.deviation < 2**31
    half = ring_of(config(**DISTRIBUTED, cohort=20, honest_share=0.5), USERS)
    step = half.bound / half.levels
    assert half.deviation * step * math.sqrt(7) == pytest.approx(0.05)


def test_the_noise_of_a_round():
    """40 of 60 clients that upload zeros: the mean has z S / sqrt(41) sqrt(40) / 40 a number."""
    aggregator = make_aggregator(config(**DISTRIBUTED), USERS)
    responded = jnp.arange(60) < 40
    zeros = uploads(60, 1000, scale=0.0)
    alpha = aggregator.reduce.weights(jnp.ones(60), responded)
    client = jnp.arange(60, dtype=jnp.int32)
    total, _ = aggregator.reduce.encode(zeros, alpha, client, jax.random.key(0))
    found = np.asarray(aggregator.reduce.decode(total, responded).views).ravel()
    # 6000 numbers: 4 / sqrt(12000) = 3.7 %.
    assert found.std() == pytest.approx(0.05 / math.sqrt(41) / math.sqrt(40), rel=0.037)
    check_aggregator(make_aggregator(config(**SECURE), USERS))


def test_epsilon_is_that_of_the_sum_by_dp_accounting(dataset):
    """T rounds of rho = 1 / (2 z^2): no more than Bun & Steinke's rho + 2 sqrt(rho log 1/delta)."""
    release = release_of(config(**DISTRIBUTED, cohort=20), USERS)
    assert release == Release("distributed", USERS, 20, USERS)
    found = accounting.epsilon(release, 2.0, 4, 1e-5)
    rho = 4 * 0.5 / 2.0**2
    assert found.pld is None
    # A Gaussian of 2 / sqrt(4) costs 4.3772, and the RDP bound is a little above it.
    assert 4.3772 < found.rdp < rho + 2 * math.sqrt(rho * math.log(1e5))
    z = accounting.calibrate(release, 4, 8.0, 1e-5)
    assert 7.98 < accounting.spent(release, z, 4, 1e-5) <= 8.0
    simulation = make_simulation(config(**DISTRIBUTED, cohort=20, honest_share=0.8), dataset)
    stated = statement(simulation.config, USERS, 2)
    assert stated["distributed"]["counted_on"] == 11 and stated["distributed"]["must_answer"] == 14
    text = "\n".join(lines(stated))
    assert "zero out one user" in text and "uses the noise of 11 clients" in text


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ({}, "float32"),
        (dict(privacy="central", clip_norm=0.1, noise_multiplier=1.0), "fixed_mean"),
        (dict(privacy="local", clip_norm=0.1, target_epsilon=8.0), "fixed_mean"),
        (dict(noise="central", clip_norm=0.1, noise_multiplier=1.0), "fixed_mean"),
        (dict(noise="client", clip_norm=0.1, noise_multiplier=1.0), "float32"),
        (DISTRIBUTED, "secure"),
    ],
)
def test_auto_chooses_the_rule_that_privacy_needs(flags, rule):
    chosen = config(**flags)
    assert chosen.federation.aggregation == chosen.flat["aggregation"] == rule
    assert Config.from_flat(**chosen.flat) == chosen


@pytest.mark.parametrize("threshold", ["0", "0.001", "0.5", "0.67", "0.9", "1"])
def test_the_least_number_of_answers_is_the_share_rounded_up(threshold):
    sampled = np.array([0, 1, 7, 20, 999, 1000, 1001, 123_457], np.int32)
    expected = [math.ceil(Fraction(threshold) * int(n)) for n in sampled]
    assert least_answers(float(threshold), sampled).tolist() == expected


def test_a_threshold_is_rounded_up_to_thousandths():
    assert least_answers(0.0004, 1000) == 1
    assert least_answers(0.6661, 1000) == 667
