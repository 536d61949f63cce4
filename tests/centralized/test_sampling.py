"""Mini-batches: every pair once, negatives uniform over what they may be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.centralized.sampling import draw_batch, draw_negatives, epoch_order, make_pairs
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.errors import InputError


def interactions(rows, num_items):
    user = [u for u, row in enumerate(rows) for _ in row]
    item = [i for row in rows for i in row]
    return Interactions.from_pairs(user=user, item=item, num_users=len(rows), num_items=num_items)


@pytest.mark.parametrize("pool", ["seen", "catalogue"])
def test_negatives_are_uniform_over_the_pool_outside_the_history(pool):
    rows = [[0, 1, 4, 7], [7], [2, 3, 4, 5], [0, 8]]
    train = interactions(rows, 10)
    pairs = make_pairs(train, pool)
    draws = 4000
    user = jnp.repeat(jnp.arange(4, dtype=jnp.int32), draws)
    drawn = np.asarray(draw_negatives(jax.random.key(0), pairs, user, longest=4))
    for u, row in enumerate(rows):
        # Items 6 and 9 have no train interaction.
        allowed = set(range(10)) - set(row) - ({6, 9} if pool == "seen" else set())
        items, counts = np.unique(drawn[user == u], return_counts=True)
        assert set(items) == allowed
        expected = draws / len(allowed)
        # Pearson's statistic: 27.9 is the 0.1% point of chi-squared with 9 degrees of freedom.
        assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_a_user_who_has_the_whole_pool_gives_no_pair():
    train = interactions([[0, 1, 2], [1]], 4)
    pairs = make_pairs(train, "seen")
    assert pairs.user.tolist() == [1] and pairs.item.tolist() == [1]
    assert len(make_pairs(train, "catalogue").user) == 4
    with pytest.raises(InputError, match="every item of the negative pool"):
        make_pairs(interactions([[0, 1], [0, 1]], 3), "seen")


def test_an_epoch_takes_every_pair_and_few_of_them_twice():
    order = np.asarray(epoch_order(jax.random.key(0), 3081, 2048))
    # Two steps of 1541: one pair is taken twice.
    assert order.shape == (2, 1541)
    assert np.bincount(order.ravel(), minlength=3081).tolist().count(2) == 1
    assert set(order.ravel()) == set(range(3081))
    assert not np.array_equal(order, epoch_order(jax.random.key(1), 3081, 2048))
    assert epoch_order(jax.random.key(0), 7, 2048).shape == (1, 7)


def test_a_batch_holds_pairs_of_train():
    train = interactions([[0, 3], [1], [2, 4, 5]], 6)
    pairs = make_pairs(train, "catalogue")
    batch = draw_batch(jax.random.key(0), pairs, jnp.array([5, 0, 2, 5]), 3)
    assert batch.user.tolist() == [2, 0, 1, 2] and batch.positive.tolist() == [5, 0, 1, 5]
