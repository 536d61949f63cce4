"""The history term of a score, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import negative_pool, pad_histories
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregator import make_aggregator
from fedvlr_jax.federated.local import Broadcast, LocalInput, Task
from fedvlr_jax.federated.model import make_model
from fedvlr_jax.federated.plans import choose_plan
from fedvlr_jax.federated.plans.dense import fits_dense
from fedvlr_jax.federated.round import make_train
from fedvlr_jax.federated.scoring import make_scores
from fedvlr_jax.types import Cohort

# One client with items 0 and 1 of three.
ITEMS = jnp.array([[1.0, 0.0], [1.0, 2.0], [1.0, 1.0]])
HEAD = {"vector": jnp.array([[0.5, 0.0]]), "bias": jnp.array([0.25])}
TRAIN = Interactions.from_pairs(user=[0, 0], item=[0, 1], num_users=1, num_items=3)


def make_task(**choices):
    config = Config.from_flat(
        backbone="fcf",
        fusion="none",
        init="random",
        width=2,
        local_epochs=1,
        num_negatives=1,
        **choices,
    ).resolved
    pool = negative_pool(TRAIN, "catalogue")
    return Task(make_model(config, 3, {}), config, pool, make_aggregator(config, num_users=1))


def test_unseen_items_are_scored_by_the_mean_of_the_history():
    task = make_task(history_weight=2.0)
    views = ITEMS[:, None, :]
    private = {"head": HEAD, "router": {}}
    histories = pad_histories(TRAIN, np.array([0]))
    scores, _, _ = make_scores(task.model)({"head": {}}, views, private, histories)
    # <(1, 1), (.5, 0)> + .25 + 2 <(1, 1), (1, 1)>, (1, 1) the mean of the history.
    assert scores[0, 2] == pytest.approx(0.5 + 0.25 + 2 * 2)


@pytest.mark.parametrize("plan", ["catalogue", "gathered"])
def test_an_item_is_no_part_of_its_own_history(plan):
    task = make_task(history_weight=2.0)
    cohort = Cohort(
        histories=pad_histories(TRAIN, np.array([0])),
        responded=jnp.array([True]),
        local_epochs=jnp.array([1]),
        weight=jnp.array([1.0]),
    )
    rates = task.config.federation.rates
    broadcast = Broadcast(ITEMS[:, None, :], {}, jnp.zeros((), jnp.int32), rates)
    private = {"head": HEAD, "router": {}}
    train = make_train(task, plan)
    result = train(broadcast, LocalInput(cohort, jnp.ones(1), private), jax.random.key(0))
    # Of items 0 and 1 each meets half of the other alone: 2 <(1, 0), (1, 2)> / 2 = 1. Item 2
    # meets both and stands for two negatives; the mean is over four rows.
    positive, negative = 0.5 + 0.25 + 1, 0.5 + 0.25 + 2 * 2
    loss = 2 * np.logaddexp(0, -positive) + 2 * np.logaddexp(0, negative)
    assert result.loss[0] == pytest.approx(loss / 4, rel=1e-6)
    # By the rows of the views: r the gradients by the scores, h what an item meets; what
    # meets item i pulls at it with r, and at the others of the history with half of that.
    r = np.array([-1 / (1 + np.exp(positive))] * 2 + [2 / (1 + np.exp(-negative))]) / 4
    rows, theta = np.asarray(ITEMS), np.array([0.5, 0.0])
    first = r[0] * (theta + rows[1]) + r[1] * rows[1] + r[2] * rows[2]
    second = r[1] * (theta + rows[0]) + r[0] * rows[0] + r[2] * rows[2]
    third = r[2] * (theta + rows[0] + rows[1])
    np.testing.assert_allclose(
        result.upload.views[:, 0], np.stack([first, second, third]), rtol=1e-5, atol=1e-7
    )


def test_the_dense_plan_knows_no_history():
    assert fits_dense(make_task())
    assert not fits_dense(make_task(history_weight=2.0))
    with pytest.raises(InputError, match=r"plan=dense: .* are catalogue, gathered"):
        choose_plan(make_task(history_weight=2.0, plan="dense"), [2], [1])
