"""How the rows of a personal table are written after the round, and known to be finite before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.federated.chunking import make_write_back
from fedvlr_jax.federated.local import LocalInput
from fedvlr_jax.federated.plans import PLANS
from fedvlr_jax.federated.plans.factored_rows import bound_of_items, trained_items
from fedvlr_jax.federated.round import make_broadcast
from fedvlr_jax.simulation import make_simulation
from tests.federated.cases import random_state, random_task

pytestmark = pytest.mark.usefixtures("double_precision")


def trained_clients(num_clients, item_lr=0.5, **choices):
    """(broadcast, what the update gives, the rows before) of clients who are all responded."""
    rng = np.random.default_rng(3)
    plain = dict(negatives="expected", clip_norm=0.0, history_weight=0.0, recency=0.0)
    task = random_task(rng, backbone="fedrap", fusion="bilevel", **plain, **choices)
    server, private, cohort, features = random_state(rng, task, num_clients)
    views = task.model.fusion.views(server.shared["fusion"], server.shared["items"], features)
    rates = task.config.federation.rates._replace(item_lr=item_lr)
    broadcast = make_broadcast(task, "factored", views, server, rates)
    cohort = dataclasses.replace(cohort, responded=np.ones(num_clients, bool))
    update = jax.jit(PLANS["factored"].make_update(task))
    clients = LocalInput(cohort, jnp.ones(num_clients), private)
    result = update(broadcast, clients, server.key)
    return broadcast, result, private


def test_chunks_of_any_size_write_back_the_same_rows():
    broadcast, result, private = trained_clients(7)
    everyone, some = np.ones(7, bool), np.arange(7) % 3 > 0
    write_back = lambda chunk, keep: jax.jit(make_write_back("factored", chunk, None))(
        broadcast, result.private, private, keep
    )
    whole = write_back(7, everyone)
    assert abs(whole["items"] - private["items"]).max() > 1e-3
    # Seven in chunks of four, of three and of two: the last one reaches back.
    for chunk in (4, 3, 2, 1, 100):
        after = write_back(chunk, some)
        for new, old, part in zip(*map(jax.tree.leaves, (whole, private, after)), strict=True):
            np.testing.assert_array_equal(part[~some], old[~some])
            np.testing.assert_allclose(part[some], new[some], rtol=1e-12, atol=1e-12)


def test_no_entry_is_above_the_bound():
    broadcast, result, private = trained_clients(5)
    moved = result.private["items"]
    rate = broadcast.rates.item_lr
    for scale in (1e-3, 1.0, 1e12, 1e30):
        items = moved._replace(vector=scale * moved.vector)
        # The largest entries that a finite loss in float32 leaves possible.
        table = private["items"] / abs(private["items"]).max() * 1.8e19
        after = trained_items(broadcast.views, table, items, rate)
        bound = bound_of_items(broadcast.view_cache, items, rate)
        assert (abs(np.asarray(after)).max(axis=(1, 2)) <= bound).all()


def test_rows_that_would_not_be_finite_are_named():
    # After one epoch nothing but the rows knows of their step.
    _, result, private = trained_clients(5, local_epochs=1, item_lr=1e100, client_lr=0.1)
    assert (result.bad_leaf == -1).all()
    _, result, private = trained_clients(5, local_epochs=1, item_lr=1e300, client_lr=0.1)
    others = jax.tree.leaves((0, private["head"], private["router"]))
    assert (result.bad_leaf == len(others)).all()


def test_histories_that_weigh_their_items_have_another_plan():
    """Whatever the config says of --recency: the weights are in the data."""
    sizes = {"users": 30, "items": 60}
    config = Config.from_flat(backbone="fedrap", width=8)
    plain = load_dataset("synthetic", data_root="", synthetic=sizes)
    recent = load_dataset("synthetic", data_root="", synthetic=sizes, recency=1.0)
    assert make_simulation(config, plain).plan == "factored"
    assert make_simulation(config, recent).plan == "gathered"
