"""Each rule against its definition, written out with loops over clients in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from fedvlr_jax.reduce import REDUCTIONS
from fedvlr_jax.reduce.coordinates import median, trimmed_mean
from fedvlr_jax.reduce.gram import geometric_median, krum_scores, multi_krum, squared_distances
from fedvlr_jax.reduce.mean import fixed_denominator_mean, weighted_mean
from fedvlr_jax.reduce.registry import RuleOptions
from fedvlr_jax.reduce.shares import share_of
from fedvlr_jax.uplink import SlotUploads

ITEMS, WIDTH = 3, 2
PRESENT = np.array([True, True, False, True, True, True, True])
ALPHA = np.where(PRESENT, [1, 2, 5, 1, 1, 3, 2], 0).astype(np.float32)
ALPHA /= ALPHA.sum()


def uploads():
    """Seven uploads; the last is far away, the third belongs to nobody who responded."""
    values = np.random.default_rng(3).normal(size=(7, ITEMS, 1, WIDTH)).astype(np.float32)
    values[6] += 20
    values[2] = 1e4
    item = np.tile(np.arange(ITEMS, dtype=np.int32), (7, 1))
    head = {"bias": values[:, 0, 0, :1] * 0.5}
    given = SlotUploads(
        item=item, rows_of_views=values, head=head, scale=1.0, num_items=ITEMS, whole=True
    )
    flat = np.concatenate([head["bias"], values.reshape(7, -1)], axis=1).astype(np.float64)
    return given, flat


def combined(rule, responded=PRESENT, alpha=ALPHA):
    given, _ = uploads()
    found = rule.combine(given, jnp.asarray(alpha), jnp.asarray(responded))
    return np.concatenate([found.head["bias"].ravel(), found.views.ravel()])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_median_of_those_who_responded():
    _, flat = uploads()
    close(combined(median()), np.median(flat[PRESENT], axis=0))
    five = PRESENT & (np.arange(7) != 0)
    close(combined(median(), five), np.median(flat[five], axis=0))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_trimmed_mean(share):
    _, flat = uploads()
    trimmed = int(share * PRESENT.sum())
    kept = np.sort(flat[PRESENT], axis=0)[trimmed : PRESENT.sum() - trimmed]
    close(combined(trimmed_mean(share)), kept.mean(axis=0))


def scores(flat, responded, byzantine):
    """Krum's score of each upload that is responded."""
    found = {}
    for u in np.flatnonzero(responded):
        distances = [((flat[u] - flat[v]) ** 2).sum() for v in np.flatnonzero(responded) if v != u]
        found[u] = sum(sorted(distances)[: max(1, responded.sum() - byzantine - 2)])
    return found


@pytest.mark.parametrize("share", [0.0, 0.2, 0.34])
def test_krum_takes_the_upload_with_the_nearest_neighbours(share):
    _, flat = uploads()
    found = scores(flat, PRESENT, int(share * PRESENT.sum()))
    close(combined(multi_krum(share, None)), flat[min(found, key=found.get)])


def test_krum_scores_do_not_count_a_near_client_that_did_not_respond():
    at = jnp.asarray([0.0, 1.0, 3.0, 0.1])
    responded = jnp.asarray([True, True, True, False])
    found = krum_scores(jnp.outer(at, at), responded, jnp.asarray(0))
    np.testing.assert_allclose(found, [1, 1, 4, np.inf])


@pytest.mark.parametrize("byzantine", [0, 1, 3])
def test_krum_scores_order_orthogonal_uploads_by_length(byzantine):
    length = np.random.default_rng(4).permutation(np.arange(1.0, 8.0))
    products = jnp.asarray(np.diag(length**2), jnp.float32)
    found = krum_scores(products, jnp.ones(7, bool), jnp.asarray(byzantine))
    np.testing.assert_array_equal(np.argsort(found), np.argsort(length))


def test_multi_krum_averages_the_best():
    _, flat = uploads()
    byzantine = int(0.34 * PRESENT.sum())
    found = scores(flat, PRESENT, byzantine)
    best = sorted(found, key=found.get)[: PRESENT.sum() - byzantine]
    close(combined(multi_krum(0.34, 1.0)), flat[best].mean(axis=0))


def test_geometric_median_has_the_least_weighted_distance():
    _, flat = uploads()
    flat, alpha = flat[PRESENT], ALPHA[PRESENT].astype(np.float64)
    cost = lambda z: (alpha * np.linalg.norm(flat - z, axis=1)).sum()
    best = optimize.minimize(cost, flat.mean(axis=0), method="Nelder-Mead", tol=1e-12).fun
    found = combined(geometric_median(iterations=200))
    assert cost(found) <= best * (1 + 1e-4)


@pytest.mark.parametrize("name", [n for n in REDUCTIONS if n not in ("float32", "int32")])
def test_nobody_responding_gives_zero(name):
    rule = REDUCTIONS[name](RuleOptions(expected=5.0, byzantine_share=0.2))
    nobody = np.zeros(7, bool)
    alpha = rule.weights(jnp.ones(7), jnp.asarray(nobody))
    assert not alpha.any()
    if rule.combine is not None:
        assert not combined(rule, nobody, alpha).any()


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum"])
def test_the_order_of_the_clients_does_not_matter(name):
    rule = REDUCTIONS[name](RuleOptions(expected=5.0, byzantine_share=0.2))
    given, _ = uploads()
    for order in itertools.islice(itertools.permutations(range(7)), 0, 5040, 1300):
        order = np.array(order)
        moved = SlotUploads(
            item=given.item,
            rows_of_views=given.rows_of_views[order],
            head={"bias": given.head["bias"][order]},
            scale=1.0,
            num_items=ITEMS,
            whole=True,
        )
        found = rule.combine(moved, jnp.asarray(ALPHA[order]), jnp.asarray(PRESENT[order]))
        close(found.views.ravel(), combined(rule)[1:])


def test_weights_known_before_training():
    weight, responded = jnp.asarray([2.0, 1.0, 1.0]), jnp.asarray([True, True, False])
    np.testing.assert_allclose(weighted_mean().weights(weight, responded), [2 / 3, 1 / 3, 0])
    fixed = fixed_denominator_mean(4.0).weights(weight, responded)
    np.testing.assert_allclose(fixed, [0.25, 0.25, 0])


def test_distances_of_near_uploads_by_hand():
    at = np.array([[0.0, 0.0], [0.3, 0.4], [0.3, 0.4]], np.float32)
    found = squared_distances(jnp.asarray(at @ at.T))
    np.testing.assert_allclose(found, [[0, 0.25, 0.25], [0.25, 0, 0], [0.25, 0, 0]], atol=1e-7)


def test_krum_sums_over_one_neighbour_at_least():
    at, both = jnp.asarray([0.0, 0.5]), jnp.ones(2, bool)
    for byzantine in (0, 1, 2):
        found = krum_scores(jnp.outer(at, at), both, jnp.asarray(byzantine))
        np.testing.assert_allclose(found, [0.25, 0.25])


def test_one_upload_is_what_every_rule_returns():
    """Those of `REDUCTIONS` that do not need three clients."""
    _, flat = uploads()
    alone = np.arange(7) == 4
    alpha = alone.astype(np.float32)
    for rule in (median(), trimmed_mean(0.4), multi_krum(0.2, None), multi_krum(0.2, 0.01)):
        close(combined(rule, alone, alpha), flat[4])
    for name in ("bulyan", "geometric_median", "norm_bound"):
        rule = REDUCTIONS[name](RuleOptions(expected=1.0, byzantine_share=0.2))
        close(combined(rule, alone, alpha), flat[4])


def test_a_small_share_selects_one_upload():
    close(combined(multi_krum(0.2, 0.01)), combined(multi_krum(0.2, None)))


def test_multi_krum_by_its_name_averages_all_but_the_byzantine():
    rule = REDUCTIONS["multi_krum"](RuleOptions(expected=6.0, byzantine_share=0.34))
    close(combined(rule), combined(multi_krum(0.34, 1.0)))
    assert np.abs(combined(rule) - combined(multi_krum(0.34, None))).max() > 0.1


def weiszfeld(flat, alpha, steps):
    """The smoothed Weiszfeld algorithm from the mean; distances are at least 1e-6 of a norm."""
    least = 1e-6 * np.linalg.norm(flat, axis=1).max()
    centre = alpha @ flat
    for _ in range(steps):
        weight = alpha / np.maximum(np.linalg.norm(flat - centre, axis=1), least)
        centre = weight @ flat / weight.sum()
    return centre


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_geometric_median_takes_ten_steps_whatever_the_size_of_uploads(size):
    """The last upload is large and absent: it changes nothing."""
    values = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [9.0, 9.0], [1e5, 1e5]])
    present = np.arange(5) < 4
    alpha = np.where(present, [0.2, 0.4, 0.1, 0.3, 0.0], 0.0)
    given = SlotUploads(
        item=jnp.zeros((5, 1), jnp.int32),
        rows_of_views=jnp.asarray(size * values, jnp.float32)[:, None, None, :],
        head={},
        scale=1.0,
        num_items=1,
        whole=True,
    )
    rule = REDUCTIONS["geometric_median"](RuleOptions(expected=4.0, byzantine_share=0.2))
    found = rule.combine(given, jnp.asarray(alpha, jnp.float32), jnp.asarray(present))
    expected = size * weiszfeld(values[present], alpha[present], 10)
    np.testing.assert_allclose(found.views[0, 0], expected, rtol=2e-4)


@pytest.mark.parametrize("size", [1e3, 1e9, 1e17])
def test_the_length_of_one_upload_does_not_move_the_geometric_median(size):
    """Ten uploads, one hostile: it pulls in its direction only, however long it is."""
    values = np.random.default_rng(5).normal(size=(10, ITEMS, 1, WIDTH)).astype(np.float32)
    hostile = values[3] / np.linalg.norm(values[3])

    def found(length):
        values[3] = length * hostile
        given = SlotUploads(
            item=np.tile(np.arange(ITEMS, dtype=np.int32), (10, 1)),
            rows_of_views=values,
            head={},
            scale=1.0,
            num_items=ITEMS,
            whole=True,
        )
        everyone = jnp.ones(10, bool)
        return geometric_median().combine(given, jnp.full(10, 0.1), everyone).views

    np.testing.assert_allclose(found(size), found(200.0), atol=0.02)


def test_the_geometric_median_of_zeros_is_zero():
    given, _ = uploads()
    zeros = given.scaled(jnp.ones(7)).masked(jnp.zeros(7, bool))
    found = geometric_median().combine(zeros, jnp.asarray(ALPHA), jnp.asarray(PRESENT))
    assert not found.views.any()


@pytest.mark.parametrize("percent", [1, 7, 13, 29, 33, 49])
def test_a_share_of_clients_is_rounded_down_exactly(percent):
    count = jnp.arange(2_000, dtype=jnp.int32)
    found = jax.jit(lambda n: share_of(percent / 100, n))(count)
    np.testing.assert_array_equal(found, percent * np.arange(2_000) // 100)
    assert share_of(0.0001, jnp.int32(2**31 - 1)) == (2**31 - 1) // 10_000
