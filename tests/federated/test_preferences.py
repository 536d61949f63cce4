"""Preferences of a history over sources: against a literal loop, and as planted."""

import numpy as np
import pytest
from scipy import stats

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.federated import preferences as module
from fedvlr_jax.federated.preferences import preferences
from tests.federated.test_initialization import random_train

E, A, M, C = (
    module.BACKGROUND,
    module.TOPIC_PRIOR,
    module.ITEM_PRIOR,
    module.SOURCE_PRIOR,
)


def literal_modality(train, rows, sharpness):
    """{(u, i): L(i)} by the formulas of the module's docstring, item by item."""
    popularity = train.item_counts / train.item_counts.sum()
    x = rows - rows.mean(axis=0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    for _ in range(module.SHIFTS):
        moved = [
            sum(
                p * np.exp(sharpness * x_i @ x_l) * x_l
                for p, x_l in zip(popularity, x, strict=True)
            )
            for x_i in x
        ]
        x = np.stack([m / np.linalg.norm(m) for m in moved])
    below = [popularity @ np.exp(sharpness * (x @ x_j)) for x_j in x]
    said = {}
    for u in range(train.num_users):
        history = train.of(u)
        for i in history:
            by_others = [np.exp(sharpness * x[j] @ x[i]) / below[j] for j in history if j != i]
            said[u, i] = E + (1 - E) * np.mean(by_others) if by_others else 1.0
    return said


def literal_weights(train, modalities, sharpness, topics, exchanges):
    """Every sum is over a client's or an item's other entries, written out."""
    popularity = train.item_counts / train.item_counts.sum()
    entries = [(u, i) for u in range(train.num_users) for i in train.of(u)]
    said = [literal_modality(train, rows, sharpness) for rows in modalities]
    sources = len(said) + 1
    drawn = np.random.default_rng(0).standard_exponential((len(entries), topics), np.float32)
    q = {e: row / row.sum() / sources for e, row in zip(entries, drawn.astype(float), strict=True)}
    r = dict.fromkeys(entries, np.full(sources, 1 / sources))
    for _ in range(exchanges):
        new_q, new_r = {}, {}
        total = sum(q.values())
        for u, i in entries:
            others = [(u, j) for j in train.of(u) if j != i]
            theta = sum((q[e] for e in others), np.zeros(topics)) + A
            theta = theta / theta.sum()
            of_item = sum((q[v, k] for v, k in entries if k == i and v != u), np.zeros(topics))
            phi = (of_item / popularity[i] + M) / (total - q[u, i] + M)
            of_id = E + (1 - E) * theta @ phi if others else 1.0
            weight = sum((r[e] for e in others), np.zeros(sources)) + C
            chance = weight * [of_id, *(s[u, i] for s in said)]
            new_r[u, i] = chance / chance.sum()
            new_q[u, i] = new_r[u, i][0] * theta * phi / (theta @ phi)
        q, r = new_q, new_r
    weights = [
        sum((r[u, i] for i in train.of(u)), np.zeros(sources)) for u in range(train.num_users)
    ]
    weights = np.stack(weights) + C
    weights[train.counts < 2] = 1
    return weights / weights.sum(axis=1, keepdims=True)


def small_train():
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(12), [0, 1, 2, 9, 5, 5, 7, 3, 4, 8, 6, 2])
    item = np.concatenate([rng.choice(25, n, replace=False) for n in np.bincount(user)])
    return Interactions.from_pairs(user=user, item=item, num_users=12, num_items=25)


def test_preferences_against_a_literal_loop(monkeypatch):
    train = small_train()
    modalities = [np.random.default_rng(0).normal(size=(25, d)) for d in (3, 8)]
    monkeypatch.setattr(module, "EXCHANGES", 4)
    found = preferences(train, modalities, sharpness=3.0, topics=5)
    expected = literal_weights(train, modalities, 3.0, 5, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[3:].std() > 0.05
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 100)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 6)
    chunked = preferences(train, modalities, sharpness=3.0, topics=5)
    np.testing.assert_allclose(chunked, found, rtol=1e-5)


@pytest.mark.parametrize("topics", [0, 3])
def test_one_item_says_nothing(topics):
    train = Interactions.from_pairs(user=[0, 1, 1], item=[0, 1, 2], num_users=3, num_items=3)
    rows = np.random.default_rng(0).normal(size=(3, 2))
    found = preferences(train, [rows, rows[::-1]], sharpness=9.0, topics=topics)
    assert found.shape == (3, 2 + (topics > 0))
    np.testing.assert_array_equal(found[[0, 2]], 1 / found.shape[1])


def test_a_large_catalogue_is_sampled(monkeypatch):
    rng = np.random.default_rng(0)
    train = random_train(rng)
    modalities = [rng.normal(size=(90, 4)), rng.normal(size=(90, 4))]
    exact = preferences(train, modalities, sharpness=1.0, topics=0)
    monkeypatch.setattr(module, "MOST_REFERENCES", 80)
    sampled = preferences(train, modalities, sharpness=1.0, topics=0)
    assert 0 < np.abs(sampled - exact).mean() < 0.05


def test_what_is_planted_is_found():
    data = load_dataset("synthetic", data_root="")
    contents = [data.features[name] for name in ("text", "image")]
    found = preferences(data.train, contents, sharpness=12.0, topics=64)
    planted = [stats.spearmanr(found[:, s], data.planted[:, s]).statistic for s in range(3)]
    assert min(planted) > 0.78 and np.mean(planted) > 0.8
