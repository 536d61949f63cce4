"""What each attack sends, by hand or by its definition; and what stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedvlr_jax.attacks import ATTACKS, Seen
from fedvlr_jax.attacks.registry import AttackOptions
from fedvlr_jax.attacks.targeted import popularity_enhancement, user_approximation
from fedvlr_jax.reduce import REDUCTIONS
from fedvlr_jax.reduce.registry import RuleOptions
from fedvlr_jax.reduce.robust import finite_only
from fedvlr_jax.uplink import SlotUploads

CLIENTS, ITEMS, WIDTH, FIRST = 8, 12, 3, 5
TARGETS = np.array([2, 9])
# Client 6 is hostile and does not respond.
PRESENT = np.array([True, True, False, True, True, True, False, True])
HOSTILE = [5, 7]


def uploads():
    rng = np.random.default_rng(0)
    return SlotUploads(
        item=jnp.tile(jnp.arange(ITEMS, dtype=jnp.int32), (CLIENTS, 1)),
        rows_of_views=jnp.asarray(rng.normal(size=(CLIENTS, ITEMS, 1, WIDTH)), jnp.float32),
        head={"bias": jnp.asarray(rng.normal(size=(CLIENTS, 1)), jnp.float32)},
        scale=jnp.ones(CLIENTS),
        num_items=ITEMS,
        whole=True,
    )


def views(seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(ITEMS, 1, WIDTH)), jnp.float32)


def make(name, strength=1.0, seed=0):
    public = np.array([[0, 0, 1, 3], [4, 5, 4, 7 % ITEMS]])
    return ATTACKS[name](AttackOptions(FIRST, CLIENTS, strength, seed, TARGETS, public))


def seen(attack, shown, responded=PRESENT):
    hostile = attack.hostile(jnp.arange(CLIENTS), jnp.asarray(responded))
    return Seen(shown, jnp.asarray(3), uploads(), hostile, jax.random.key(0))


def sent(attack, memory=None, responded=PRESENT, shown=None):
    """([K, I * d + 1] what every client sends, the memory)."""
    shown = views() if shown is None else shown
    memory = attack.init(shown.shape) if memory is None else memory
    given, memory = attack.replace(seen(attack, shown, responded), memory)
    rows = given.rows()
    flat = [np.asarray(x, np.float64).reshape(CLIENTS, -1) for x in (rows.views, rows.head["bias"])]
    return np.concatenate(flat, axis=1), memory


def trained():
    rows = uploads().rows()
    flat = [np.asarray(x, np.float64).reshape(CLIENTS, -1) for x in (rows.views, rows.head["bias"])]
    return np.concatenate(flat, axis=1)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_honest_uploads_keep_their_values(name):
    attack = make(name)
    memory = None
    for seed in (1, 2):
        found, memory = sent(attack, memory, shown=views(seed))
        honest = [u for u in range(CLIENTS) if u not in HOSTILE]
        np.testing.assert_allclose(found[honest], trained()[honest], rtol=1e-6)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_without_a_hostile_client_in_the_cohort_nothing_happens(name):
    attack = make(name)
    responded = PRESENT & (np.arange(CLIENTS) < FIRST)
    start = attack.init(views().shape)
    found, memory = sent(attack, start, responded)
    np.testing.assert_array_equal(found, trained().astype(np.float32))
    for before, after in zip(jax.tree.leaves(start), jax.tree.leaves(memory), strict=True):
        np.testing.assert_array_equal(before, after)


def test_factors():
    for name, factor in (("sign_flip", -2), ("scaling", 20), ("label_flip", 1), ("honest", 1)):
        found, _ = sent(make(name, strength=2.0))
        np.testing.assert_allclose(found[HOSTILE], factor * trained()[HOSTILE], rtol=1e-6)
    assert np.isnan(sent(make("not_a_number"))[0][HOSTILE]).all()


def test_moments_of_the_hostile_clients_own_training():
    own = trained()[HOSTILE]
    mean, deviation = own.mean(axis=0), own.std(axis=0)
    both = lambda row: np.tile(row, (2, 1))
    close = lambda name, expected: np.testing.assert_allclose(
        sent(make(name, strength=1.5))[0][HOSTILE], both(expected), rtol=1e-4, atol=1e-5
    )
    close("ipm", -1.5 * mean)
    close("ua_fedrec", mean - 1.5 * np.sign(mean) * deviation)
    # n = 8 clients, m = 3 hostile: s = 4 + 1 - 3 = 2 supporters among 5 honest clients.
    close("alie", mean - stats.norm.ppf((5 - 2) / 5).clip(0.3, 3) * deviation)


@pytest.mark.parametrize("name", ["spattack", "cluster", "a_ra", "a_hum", "fedrec"])
def test_forged_uploads_are_as_long_as_trained_ones(name):
    found, _ = sent(make(name, strength=2.0))
    length = 2 * np.linalg.norm(trained()[HOSTILE], axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(found[HOSTILE], axis=1), length, rtol=1e-4)


@pytest.mark.parametrize("name", ["a_ra", "a_hum"])
def test_imagined_users_move_the_targets_alone(name):
    found, _ = sent(make(name))
    rows = found[HOSTILE, : ITEMS * WIDTH].reshape(2, ITEMS, WIDTH)
    assert set(np.flatnonzero(np.abs(rows[0]).sum(axis=1))) == set(TARGETS)


@pytest.mark.parametrize("name", ["a_ra", "a_hum"])
def test_imagined_users_follow_the_seed(name):
    one, again, other = (sent(make(name, seed=seed))[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other)[HOSTILE].max() > 1e-3


def test_pieck_knows_popular_items_from_the_second_broadcast_on():
    attack = make("pieck_uea")
    first, memory = sent(attack)
    np.testing.assert_allclose(first, trained(), rtol=1e-6)
    moving = views().at[jnp.asarray([4, 7])].add(5.0)
    found, memory = sent(attack, memory, shown=moving)
    assert set(np.argsort(np.asarray(memory["moved"]))[-2:]) == {4, 7}
    rows = found[HOSTILE, : ITEMS * WIDTH].reshape(2, ITEMS, WIDTH)
    assert set(np.flatnonzero(np.abs(rows[0]).sum(axis=1))) == set(TARGETS)


@pytest.mark.parametrize("rule", ["float32", "median", "krum", "geometric_median", "norm_bound"])
@pytest.mark.parametrize("strength", [1e25, 1e39])
@pytest.mark.parametrize("name", ["ipm", "a_ra"])
def test_a_forged_upload_beyond_float32_leaves_the_honest_ones(name, strength, rule):
    """1e25 overflows in the square of the norm, 1e39 in the upload itself."""
    attack, shown = make(name, strength), views()
    given, _ = attack.replace(seen(attack, shown), attack.init(shown.shape))
    plain = REDUCTIONS[rule](RuleOptions(expected=4.0, byzantine_share=0.1))
    checked, alpha = finite_only(plain), jnp.full(CLIENTS, 1 / CLIENTS)
    found = checked.combine(given, alpha, jnp.asarray(PRESENT))
    honest = jnp.asarray(PRESENT & (np.arange(CLIENTS) < FIRST))
    own = uploads().masked(honest)
    weight = plain.weights(alpha, honest)
    expected = plain.combine(own, weight, honest) if plain.combine else own.total(weight)
    np.testing.assert_allclose(found.views, expected.views, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.head["bias"], expected.head["bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["fedrec", "pieck_ipe", "pieck_uea"])
def test_fewer_items_than_the_lists_of_an_attack(name, monkeypatch):
    monkeypatch.setitem(globals(), "ITEMS", 6)
    monkeypatch.setitem(globals(), "TARGETS", np.array([2, 5]))
    attack, memory = make(name), None
    for seed in (1, 2):
        found, memory = sent(attack, memory, shown=views(seed))
        assert np.isfinite(found).all()
    assert np.abs(found[HOSTILE] - trained()[HOSTILE]).max() > 0.1


def test_the_losses_of_pieck_by_numbers():
    target, popular = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 2.0], [3.0, 0.0]])
    # Scores 0 and 3: -sum over k of sigmoid(-score) times the popular vector.
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    expected = [[-3 * sigmoid(-3.0), -2 * sigmoid(0.0)]]
    np.testing.assert_allclose(user_approximation(target, popular), expected, rtol=1e-5)
    # The cosine with the first grows along its direction; the second is reached already.
    np.testing.assert_allclose(popularity_enhancement(target, popular), [[0.0, -1.0]], atol=1e-5)
