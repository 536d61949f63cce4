"""Ranks of clients with any number of targets, in chunks, against what they are recommended."""

import dataclasses

import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.federated import scoring
from fedvlr_jax.simulation import make_simulation

USERS, ITEMS = 50, 60


@pytest.fixture(scope="module")
def dataset():
    """Up to four validation and test items a user, and 20 test items of user 9."""
    data = load_dataset("synthetic", data_root="", synthetic={"users": USERS, "items": ITEMS})
    rng, parts = np.random.default_rng(0), {}
    taken = data.train.matrix.toarray() > 0
    for name in ("valid", "test"):
        numbers = rng.integers(0, 5, USERS)
        numbers[9] = 20 if name == "test" else 0
        chosen = [
            rng.permutation(np.flatnonzero(~own))[:n] for own, n in zip(taken, numbers, strict=True)
        ]
        user = np.repeat(np.arange(USERS), [len(items) for items in chosen])
        item = np.concatenate(chosen)
        taken[user, item] = True
        parts[name] = Interactions.from_pairs(
            user=user, item=item, num_users=USERS, num_items=ITEMS
        )
    return dataclasses.replace(data, **parts)


def literal_ranks(simulation, state):
    """Ahead and tied of each test target, counted among the scores of all recommendations."""
    test = simulation.dataset.test
    items, scores = simulation.recommend(state, ITEMS)
    ahead, tied = [], []
    for user, target in zip(test.users, test.item, strict=True):
        own = scores[user][items[user] == target]
        ahead.append(np.sum(scores[user] > own))
        tied.append(np.sum(scores[user] == own) - 1)
    return ahead, tied


@pytest.mark.parametrize("store", ["device", "host"])
@pytest.mark.parametrize("at_once", [7, 1000])
@pytest.mark.slow
def test_ranks_are_those_of_the_recommended_order(store, at_once, dataset, monkeypatch):
    monkeypatch.setattr(scoring, "SCORE_BYTES", at_once * 24 * ITEMS)
    config = Config.from_flat(width=8, router_hidden=8, negatives="sampled", store=store)
    simulation = make_simulation(config, dataset)
    state = simulation.init()
    ranks = simulation.evaluate(state, "test")
    np.testing.assert_array_equal((ranks.ahead, ranks.tied), literal_ranks(simulation, state))
    assert len(ranks.ahead) == len(dataset.test) and ranks.finite.shape == (USERS,)


def test_one_long_list_lengthens_no_other(dataset):
    """As many places are kept as the parts have entries, beside those of rows of no client."""
    simulation = make_simulation(Config.from_flat(), dataset)
    longest = max(len(dataset.valid), len(dataset.test))
    for held in simulation.engine.evaluation.held_out.values():
        assert sum(lists.entry.size for lists in held.targets) == longest
    # With a column a target, the places are those of 20 a user.
    assert longest < USERS * 20 / 4
