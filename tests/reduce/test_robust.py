"""The rules against hostile clients, written out with loops in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.reduce import REDUCTIONS
from fedvlr_jax.reduce.registry import RuleOptions
from fedvlr_jax.reduce.robust import bulyan, finite_only, norm_bound, row_median
from fedvlr_jax.uplink import Needs, SlotUploads

CLIENTS, ITEMS, WIDTH = 9, 4, 2
PRESENT = np.arange(CLIENTS) != 3
NAMES = sorted(REDUCTIONS)


def uploads(values, scale=1.0, head=None):
    item = np.tile(np.arange(ITEMS, dtype=np.int32), (CLIENTS, 1))
    return SlotUploads(
        item=item,
        rows_of_views=jnp.asarray(values, jnp.float32).reshape(CLIENTS, ITEMS, 1, WIDTH),
        head=head or {},
        scale=jnp.full(CLIENTS, scale),
        num_items=ITEMS,
        whole=True,
    )


def drawn():
    values = np.random.default_rng(5).normal(size=(CLIENTS, ITEMS * WIDTH))
    values[7] *= 50
    return values


def combined(rule, values, responded=PRESENT, alpha=None):
    responded = jnp.asarray(responded)
    alpha = rule.weights(jnp.ones(CLIENTS), responded) if alpha is None else alpha
    return np.asarray(rule.combine(uploads(values), alpha, responded).views).reshape(-1)


def test_norm_bound_shortens_to_the_median_norm():
    values = drawn()
    norms = np.linalg.norm(values, axis=1)
    bound = np.median(norms[PRESENT])
    short = values * np.minimum(1, bound / norms)[:, None]
    np.testing.assert_allclose(
        combined(norm_bound(), values), short[PRESENT].mean(axis=0), rtol=1e-4
    )


def test_norm_bound_shortens_an_upload_that_an_attack_flips():
    """`sign_flip` scales an upload by a negative number; its norm is that of the upload."""
    flip, alpha = np.where(np.arange(CLIENTS) == 7, -1.0, 1.0), jnp.full(CLIENTS, 1 / CLIENTS)
    everyone, values = jnp.ones(CLIENTS, bool), drawn()
    flipped = uploads(values).scaled(jnp.asarray(flip, jnp.float32))
    np.testing.assert_allclose(flipped.norms(), np.linalg.norm(values, axis=1), rtol=1e-5)
    found = norm_bound().combine(flipped, alpha, everyone)
    built = norm_bound().combine(uploads(flip[:, None] * values), alpha, everyone)
    np.testing.assert_allclose(found.views, built.views, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.13, 0.24])
def test_bulyan(share):
    values = drawn()
    there = np.flatnonzero(PRESENT)
    byzantine = int(share * len(there))
    score = {}
    for u in there:
        far = sorted(((values[u] - values[v]) ** 2).sum() for v in there if v != u)
        score[u] = sum(far[: max(1, len(there) - byzantine - 2)])
    selected = sorted(score, key=score.get)[: len(there) - 2 * byzantine]
    expected = []
    for column in values[selected].T:
        distance = np.abs(column - np.median(column))
        nearest = np.argsort(distance)[: max(1, len(selected) - 2 * byzantine)]
        expected.append(column[nearest].mean())
    np.testing.assert_allclose(combined(bulyan(share), values), expected, rtol=1e-4, atol=1e-5)


def test_row_median_by_hand():
    """Item 0: touched by all; 1: by four of eight; 2: by two, below the floor; 3: by nobody."""
    values = np.zeros((CLIENTS, ITEMS, WIDTH))
    values[:, 0] = [1.0, 2.0]
    values[8, 0] = [100.0, -100.0]
    values[[0, 1, 2, 4], 1] = [[1, 0], [3, 0], [1, 0], [1, 0]]
    values[[0, 8], 2] = 7.0
    found = combined(row_median(0.13), values.reshape(CLIENTS, -1)).reshape(ITEMS, WIDTH)
    # Four of the eight that responded touched item 1, so half of its median.
    np.testing.assert_allclose(found, [[1, 2], [0.5, 0], [0, 0], [0, 0]], rtol=1e-5)


@pytest.mark.parametrize("share, floor", [(0.0, 3), (0.13, 3), (0.25, 5)])
def test_a_row_needs_as_many_clients_as_outvote_the_hostile(share, floor):
    """Of 8 clients, f are hostile: 2 f + 1, and three at least. Rows are short: 0.01."""
    for count in range(1, 9):
        values = np.zeros((CLIENTS, ITEMS, WIDTH))
        values[np.flatnonzero(PRESENT)[:count], 2] = [0.01, 0.0]
        found = combined(row_median(share), values.reshape(CLIENTS, -1)).reshape(ITEMS, WIDTH)
        expected = 0.01 * count / 8 if count >= floor else 0.0
        np.testing.assert_allclose(found[2], [expected, 0], rtol=1e-5)
        assert not found[[0, 1, 3]].any()


def test_row_median_clips_to_the_median_norm():
    """Norms 3, 4 and 200 ^ .5: the third becomes 4 long, 4 / 2 ^ .5 in each coordinate."""
    values = np.zeros((CLIENTS, ITEMS, WIDTH))
    values[[0, 1, 2], 0] = [[3, 0], [0, -4], [10, -10]]
    found = combined(row_median(0.0), values.reshape(CLIENTS, -1)).reshape(ITEMS, WIDTH)
    share, side = 3 / 8, 4 / np.sqrt(2)
    np.testing.assert_allclose(found[0], [share * side, -share * side], rtol=1e-5)


def test_every_client_touches_the_shared_head():
    """A gradient of exactly 0 and one of 1e-19 have the same effect: the share stays 1."""
    for rounded in (0.0, 1e-19):
        bias = jnp.asarray([[rounded], [2.0], [3.0], [99.0], [4.0], [2.0], [3.0], [2.0], [3.0]])
        rule = row_median(0.0)
        given = uploads(np.zeros((CLIENTS, ITEMS * WIDTH)), head={"bias": bias})
        found = rule.combine(given, jnp.ones(CLIENTS), jnp.asarray(PRESENT))
        # The responses, sorted: 0, 2, 2, 2, 3, 3, 3, 4. Their norms have the median 2.5.
        np.testing.assert_allclose(found.head["bias"], [2.25], rtol=1e-6)


def test_the_check_needs_all_uploads_at_once():
    checked = finite_only(REDUCTIONS["int32"](RuleOptions(expected=8.0, byzantine_share=0.2)))
    assert checked.needs == Needs.WHOLE and not checked.exact


@pytest.mark.parametrize("name", NAMES)
def test_uploads_that_are_not_finite_are_as_if_they_had_not_come(name):
    rule = REDUCTIONS[name](RuleOptions(expected=8.0, byzantine_share=0.2))
    checked = finite_only(rule)
    values = drawn()
    for bad in (np.nan, np.inf, 1e30):
        hostile = values.copy()
        hostile[[0, 5], 2] = bad
        hostile[5] = bad
        without = PRESENT.copy()
        without[[0, 5]] = False
        found = combined(checked, hostile)
        expected = combined(checked, np.where(without[:, None], values, 0), without)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "int32"])
def test_the_check_leaves_finite_uploads_to_the_rule(name):
    rule = REDUCTIONS[name](RuleOptions(expected=8.0, byzantine_share=0.2))
    values, responded = drawn(), jnp.asarray(PRESENT)
    alpha = rule.weights(jnp.ones(CLIENTS), responded)
    plain = (
        uploads(values).total(alpha)
        if rule.combine is None
        else rule.combine(uploads(values), alpha, responded)
    )
    found = combined(finite_only(rule), values, alpha=alpha)
    np.testing.assert_allclose(found, np.ravel(plain.views), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "flags, pieces",
    [
        (dict(aggregation="bulyan", byzantine_share=0.25), ["--byzantine_share", "25%"]),
        (dict(aggregation="krum", attack="alie", hostile_share=1.0), ["--hostile_share", "50%"]),
        (dict(aggregation="bulyan", attack="alie", hostile_share=0.4), ["--hostile_share", "25%"]),
        (dict(hostile_share=0.0), ["--hostile_share=0.0", "above 0"]),
    ],
)
def test_shares_that_a_rule_cannot_bear_are_refused(flags, pieces):
    with pytest.raises(InputError) as caught:
        Config.from_flat(**flags)
    for piece in pieces:
        assert piece in caught.value.line
