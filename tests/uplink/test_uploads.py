"""What a rule may ask of uploads, against arrays of every upload."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.uplink import JoinedUploads, LowRankUploads, Needs, SlotUploads, Upload, uploads

CLIENTS, ITEMS, VIEWS, WIDTH, EPOCHS, SLOTS = 5, 7, 2, 3, 4, 4
PRODUCT = functools.partial(jnp.einsum, precision="highest")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def head():
    return {"kernel": normal(5, CLIENTS, 3), "bias": normal(6, CLIENTS)}


def low_rank():
    """Uploads in factors, and the same as arrays."""
    flat = VIEWS * WIDTH
    residual, query = normal(0, EPOCHS, CLIENTS, ITEMS), normal(1, EPOCHS, CLIENTS, flat)
    positive, pull = normal(2, CLIENTS, ITEMS), normal(3, CLIENTS, flat)
    scale = np.abs(normal(4, CLIENTS))
    rows = np.zeros((CLIENTS, ITEMS, flat))
    for u in range(CLIENTS):
        for a in range(EPOCHS):
            rows[u] += np.outer(residual[a, u], query[a, u])
        rows[u] += np.outer(positive[u], pull[u])
    given = LowRankUploads(
        residual=residual,
        query=query,
        positive=positive,
        pull=pull,
        head=head(),
        scale=scale,
        views=(VIEWS, WIDTH),
        product=PRODUCT,
    )
    return given, rows.reshape(CLIENTS, ITEMS, VIEWS, WIDTH), scale


def slots():
    """Uploads of touched rows, one of them padding, and the same as arrays."""
    generator = np.random.default_rng(7)
    item = np.stack([generator.permutation(ITEMS)[:SLOTS] for _ in range(CLIENTS)])
    item[1, -1] = ITEMS
    values = normal(8, CLIENTS, SLOTS, VIEWS, WIDTH)
    values[1, -1] = 0
    rows = np.zeros((CLIENTS, ITEMS + 1, VIEWS, WIDTH))
    for u in range(CLIENTS):
        rows[u, item[u]] = values[u]
    given = SlotUploads(
        item=item.astype(np.int32),
        rows_of_views=values,
        head=head(),
        scale=np.float32(0.5),
        num_items=ITEMS,
        whole=False,
    )
    return given, rows[:, :ITEMS], np.full(CLIENTS, 0.5)


def joined():
    (first, rows, scale), (second, others, other_scale) = low_rank(), slots()
    return (
        JoinedUploads.of([first, second]),
        np.concatenate([rows, others]),
        np.concatenate([scale, other_scale]),
    )


def joined_low_rank():
    given, rows, scale = low_rank()
    # The second part: its clients in reverse order, each times 2.
    other = jax.tree.map(lambda leaf, axis: np.flip(leaf, axis), given, given.client_axes()).scaled(
        np.full(CLIENTS, 2.0, np.float32)
    )
    return (
        JoinedUploads.of([given, other]),
        np.concatenate([rows, rows[::-1]]),
        np.concatenate([scale, 2 * scale[::-1]]),
    )


@pytest.fixture(params=[low_rank, slots, joined, joined_low_rank], ids=lambda make: make.__name__)
def case(request, monkeypatch):
    """(uploads, the views [K, I, G, d] and all numbers [K, n] of each, scaled)."""
    # Blocks of three items, of which the last has one.
    monkeypatch.setattr(uploads, "BLOCK_BYTES", 4 * 2 * CLIENTS * VIEWS * WIDTH * 3)
    given, rows, scale = request.param()
    views = rows * scale[:, None, None, None]
    heads = np.concatenate([normal(6, CLIENTS)[:, None], normal(5, CLIENTS, 3)], axis=1)
    second = heads[::-1] if request.param is joined_low_rank else heads
    heads = np.concatenate([heads, second])[: len(scale)] * scale[:, None]
    return given, views, np.concatenate([heads, views.reshape(len(views), -1)], axis=1)


def numbers(upload):
    """All numbers of one upload, the shared head's first."""
    parts = [upload.head["bias"].ravel(), upload.head["kernel"].ravel(), upload.views.ravel()]
    return np.concatenate(parts)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_rows_and_shape(case):
    given, views, _ = case
    assert given.shape == views.shape
    close(given.rows().views, views)


def test_total_is_the_weighted_sum(case):
    given, _, whole = case
    weight = normal(9, len(whole))
    close(numbers(given.total(jnp.asarray(weight))), weight @ whole)


def test_norms_are_joint_over_views_and_head(case):
    given, _, whole = case
    close(given.norms(), np.linalg.norm(whole, axis=1))


def test_products_are_those_of_all_pairs(case):
    given, _, whole = case
    close(given.products(), whole @ whole.T)


@pytest.mark.parametrize("make", [low_rank, joined_low_rank])
def test_products_of_factors_build_no_upload(make, monkeypatch):
    given, _, _ = make()
    monkeypatch.setattr(LowRankUploads, "block", None)
    assert given.products().shape == (given.shape[0], given.shape[0])


def test_a_rule_on_coordinates_sees_each_coordinate_of_every_client(case):
    given, _, whole = case
    close(numbers(given.coordinatewise(lambda x: jnp.max(x, axis=0))), whole.max(axis=0))


def test_scaled_multiplies_each_upload(case):
    given, _, whole = case
    factor = normal(10, len(whole))
    weight = np.ones(len(whole), np.float32)
    close(numbers(given.scaled(jnp.asarray(factor)).total(weight)), factor @ whole)


@pytest.mark.parametrize("make", [low_rank, slots])
def test_first_keeps_the_first_clients(make):
    given, rows, scale = make()
    kept = given.scaled(jnp.ones(CLIENTS)).first(3)
    assert kept.shape[0] == 3
    close(kept.rows().views, (rows * scale[:, None, None, None])[:3])


def test_whole_rows_and_scattered_rows_have_one_sum():
    rows = normal(11, CLIENTS, ITEMS, VIEWS, WIDTH)
    item = np.tile(np.arange(ITEMS, dtype=np.int32), (CLIENTS, 1))
    weight = normal(12, CLIENTS)
    found = [
        SlotUploads(
            item=item, rows_of_views=rows, head={}, scale=1.0, num_items=ITEMS, whole=whole
        ).total(weight)
        for whole in (True, False)
    ]
    close(found[0].views, found[1].views)


def test_uploads_pass_through_compiled_functions():
    given, _, _ = low_rank()
    weight = normal(13, CLIENTS)
    compiled = jax.jit(lambda given, weight: given.total(weight))
    close(numbers(compiled(given, weight)), numbers(given.total(weight)))


def test_inner_products_with_one_upload(case):
    given, _, whole = case
    one = np.concatenate([normal(14, 1), normal(15, 3), normal(16, ITEMS * VIEWS * WIDTH)])
    head = {"bias": jnp.asarray(one[0]), "kernel": jnp.asarray(one[1:4])}
    other = Upload(jnp.asarray(one[4:]).reshape(ITEMS, VIEWS, WIDTH), head)
    close(given.inner(other), whole @ one)


def test_a_rule_on_rows_sees_the_row_of_every_client(case):
    """The longest row of each item; a leaf of the head is one row."""
    given, views, whole = case
    sizes = set()

    def longest_leaf(rows):
        sizes.add(rows.shape[1])
        return rows[jnp.argmax(jnp.sum(jnp.square(rows), axis=1))]

    found = given.rowwise(jax.vmap(longest_leaf, in_axes=1), longest_leaf)
    best = np.argmax(np.square(views).sum(axis=(2, 3)), axis=0)
    close(found.views, views[best, np.arange(ITEMS)])
    close(found.head["bias"], whole[np.argmax(np.abs(whole[:, 0])), 0])
    kernel = whole[:, 1:4]
    close(found.head["kernel"], kernel[np.argmax(np.square(kernel).sum(axis=1))])
    assert sizes == {1, 3, VIEWS * WIDTH}


def test_the_carry_of_a_fold_meets_every_number_once(case):
    given, views, whole = case
    rule = lambda carry, rows: (carry + jnp.sum(rows), jnp.min(rows, axis=0))
    carry, found = given.fold_rows(rule, jnp.zeros(()))
    close(carry, whole.sum())
    close(numbers(found), whole.min(axis=0))
    assert found.views.shape == views.shape[1:]


def test_masked_clients_are_zero_whatever_they_sent(case):
    given, _, whole = case
    factor = np.ones(len(whole), np.float32)
    factor[[1, 3]] = np.nan, np.inf
    broken = given.scaled(jnp.asarray(factor))
    assert np.flatnonzero(~np.isfinite(broken.norms())).tolist() == [1, 3]
    kept = np.isfinite(factor)
    weight = normal(17, len(whole))
    found = broken.masked(jnp.asarray(kept)).total(jnp.asarray(weight))
    close(numbers(found), (weight * kept) @ whole)


def test_first_of_more_than_there_are_is_all():
    given, _, _ = low_rank()
    assert given.scaled(jnp.ones(CLIENTS)).first(CLIENTS + 3).shape == given.shape


def test_scale_and_head_of_joined_uploads():
    given, _, scale = joined()
    close(given.scale, scale)
    heads = np.tile(normal(6, CLIENTS), 2)
    close(given.scaled_head()["bias"], heads * scale)
    alone = low_rank()[0]
    assert JoinedUploads.of([alone]) is alone


@pytest.mark.parametrize(
    "rows, expected", [(3, [3, 3, 1]), (3.9, [3, 3, 1]), (7, [7]), (100, [7]), (0.1, [1] * 7)]
)
def test_blocks_fill_the_bytes_they_may_have_and_no_more(monkeypatch, rows, expected):
    """A block is `rows` items of all clients in float32; at least one, at most the catalogue."""
    monkeypatch.setattr(uploads, "BLOCK_BYTES", int(rows * 4 * CLIENTS * VIEWS * WIDTH))
    given, views, _ = slots()
    with jax.disable_jit():
        seen = []

        def step(carry, block):
            seen.append(np.asarray(block))
            return carry, block[0]

        given._over_blocks(step, None)
    size = seen[0].shape[1]
    assert size == expected[0] and len(seen) == len(expected)
    found = np.concatenate(seen, axis=1)
    # The places after the last item are zeros.
    close(found[:, :ITEMS], 0.5 * views)
    assert not found[:, ITEMS:].any()


def test_norms_of_short_uploads():
    rows = np.zeros((2, 1, 1, 2), np.float32)
    rows[0, 0, 0] = 0.003, 0.004
    short = SlotUploads(
        item=np.zeros((2, 1), np.int32),
        rows_of_views=rows,
        head={},
        scale=2.0,
        num_items=1,
        whole=True,
    )
    np.testing.assert_allclose(short.norms(), [0.01, 0], rtol=1e-6)


def test_a_need_includes_those_before_it():
    assert Needs.SUM < Needs.NORMS < Needs.WHOLE
