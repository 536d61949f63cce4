"""Altered uploads against the same uploads built whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.uplink import JoinedUploads, LowRankUploads, SlotUploads, Upload
from fedvlr_jax.uplink.altered_uploads import AlteredUploads

CLIENTS, ITEMS, VIEWS, WIDTH = 5, 7, 2, 3


def honest(kind):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    head = {"bias": draw(CLIENTS, 2)}
    scale = jnp.asarray([1.0, 2.0, 0.5, 1.0, 3.0])
    if kind == "low_rank":
        return LowRankUploads(
            residual=draw(2, CLIENTS, ITEMS),
            query=draw(2, CLIENTS, VIEWS * WIDTH),
            positive=draw(CLIENTS, ITEMS),
            pull=draw(CLIENTS, VIEWS * WIDTH),
            head=head,
            scale=scale,
            views=(VIEWS, WIDTH),
            product=jnp.einsum,
        )
    item = jnp.asarray([rng.permutation(ITEMS)[:4] for _ in range(CLIENTS)], jnp.int32)
    return SlotUploads(
        item=item,
        rows_of_views=draw(CLIENTS, 4, VIEWS, WIDTH),
        head=head,
        scale=scale,
        num_items=ITEMS,
        whole=False,
    )


def joined():
    return JoinedUploads.of([honest("low_rank").first(2), honest("low_rank").first(3)])


MAKE = {
    "low_rank": lambda: honest("low_rank"),
    "slots": lambda: honest("slots"),
    "joined": joined,
}


def altered(own):
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return AlteredUploads(
        honest=own,
        keep=jnp.asarray([1.0, 0.0, -2.0, 1.0, 0.5]),
        forged=Upload(draw(ITEMS, VIEWS, WIDTH), {"bias": draw(2)}),
        share=jnp.asarray([0.0, 1.0, 0.0, 0.0, 0.7]),
        scale=jnp.asarray([1.0, 1.0, 1.0, 0.2, 2.0]),
    )


def whole(uploads):
    """[K, everything], float64."""
    rows = uploads.rows()
    leaves = [np.asarray(leaf, np.float64).reshape(CLIENTS, -1) for leaf in jax.tree.leaves(rows)]
    return np.concatenate(leaves, axis=1)


@pytest.mark.parametrize("kind", MAKE)
def test_altered_uploads_give_every_need(kind):
    own = MAKE[kind]()
    given = altered(own)
    mixed = np.asarray(given.keep)[:, None] * whole(own)
    forged = np.concatenate([np.ravel(x) for x in jax.tree.leaves(given.forged)])
    mixed += np.outer(given.share, forged)
    expected = np.asarray(given.scale)[:, None] * mixed
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    close(whole(given), expected)
    close(given.norms(), np.linalg.norm(expected, axis=1))
    close(given.products(), expected @ expected.T)
    weight = jnp.asarray([0.1, 0.2, 0.3, 0.4, 0.5])
    total = np.concatenate([np.ravel(x) for x in jax.tree.leaves(given.total(weight))])
    close(total, np.asarray(weight) @ expected)
    close(own.inner(given.forged), whole(own) @ forged)
    highest = given.coordinatewise(lambda values: jnp.max(values, axis=0))
    close(np.concatenate([np.ravel(x) for x in jax.tree.leaves(highest)]), expected.max(axis=0))


@pytest.mark.parametrize("kind", MAKE)
def test_masked_uploads_are_zero_though_they_were_not_finite(kind):
    given = altered(MAKE[kind]())
    factor = jnp.asarray([1.0, jnp.nan, 1.0, jnp.inf, 1.0])
    bad = AlteredUploads(**{**vars(given), "keep": given.keep * factor})
    kept = jnp.isfinite(bad.norms())
    np.testing.assert_array_equal(kept, [True, False, True, False, True])
    clean = bad.masked(kept)
    expected = np.where(np.asarray(kept)[:, None], whole(given), 0)
    np.testing.assert_allclose(whole(clean), expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(clean.total(jnp.ones(CLIENTS)).views).all()
    scaled = MAKE[kind]().scaled(factor)
    assert np.isfinite(whole(scaled.masked(jnp.isfinite(scaled.norms())))).all()


def test_rowwise_sees_the_rows_of_one_item_together():
    own = honest("slots")
    views = np.asarray(own.rows().views).reshape(CLIENTS, ITEMS, -1)
    longest = lambda rows: rows[jnp.argmax(jnp.sum(jnp.square(rows), axis=1))]
    found = np.asarray(own.rowwise(jax.vmap(longest, in_axes=1), longest).views).reshape(ITEMS, -1)
    best = np.argmax(np.linalg.norm(views, axis=2), axis=0)
    np.testing.assert_allclose(found, views[best, np.arange(ITEMS)], rtol=1e-6)
