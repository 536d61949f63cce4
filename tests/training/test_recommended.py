"""The recommendations that a report shows by title."""

import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.report import render_report
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.training.recommended import _chosen, recommended_titles


@pytest.fixture(scope="module")
def simulation():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 30, "items": 50})
    return make_simulation(Config.from_flat(width=8, fusion="none"), dataset)


def test_titles_are_those_of_the_best_items(simulation):
    state, dataset = simulation.init(), simulation.dataset
    titles = np.array([f"title <{i}>" if i else "" for i in range(50)], object)
    found = recommended_titles(simulation, state, titles)
    items, scores = simulation.recommend(state, 5)
    assert len(found) == 4
    for shown in found:
        user = dataset.user_ids.tolist().index(shown["user"])
        named = [titles[i] or str(dataset.item_ids[i]) for i in items[user]]
        assert [item["title"] for item in shown["items"]] == named
        assert [item["score"] for item in shown["items"]] == scores[user].tolist()
        targets = set(dataset.test.item[dataset.test.users == user])
        assert [item["target"] for item in shown["items"]] == [i in targets for i in items[user]]
        own = dataset.train.item[dataset.train.users == user]
        assert shown["history_length"] == len(own) and shown["weights"] is None
        assert shown["history"] == [titles[i] or str(dataset.item_ids[i]) for i in own[:5]]
    summary = {"test": {"users": 0}, "views": ["id"], "recommended": found}
    page = render_report({}, summary, [], {})
    assert "Recommendations of a few users" in page and "title &lt;" in page
    assert "title <" not in page


def test_users_are_those_that_weigh_one_view_most():
    weights = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.0, 1.0]])
    assert _chosen(np.array([3, 3, 3, 0]), weights) == [0, 1]
    assert _chosen(np.array([0, 0]), None) == []
    assert _chosen(np.array([1, 0, 1]), None) == [0, 2]
    assert _chosen(np.array([1, 1]), np.full((2, 2), 0.5)) == [0, 1]
