"""Preferences of a history over sources: against a literal loop, and as planted."""

import numpy as np
from scipy import stats

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.registry import load_dataset
from fedvlr_jax.federated import preferences as module
from fedvlr_jax.federated.preferences import Source, preferences
from fedvlr_jax.federated.start import spectral_start
from tests.federated.test_start import random_train


def literal_weights(train, sources, user, steps):
    """The formulas of the module's docstring, item by item."""
    popularity = train.item_counts / train.item_counts.sum()
    history = train.of(user)
    speaks = np.ones((len(history), len(sources)))
    for g, (rows, sharpness) in enumerate(sources):
        centred = rows - rows.mean(axis=0)
        x = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        for place, i in enumerate(history):
            others = [j for j in history if j != i]
            kernel = [
                np.exp(sharpness * x[j] @ x[i]) / (popularity @ np.exp(sharpness * (x @ x[j])))
                for j in others
            ]
            if others:
                speaks[place, g] = 0.05 + 0.95 * np.mean(kernel)
    weights = np.full(len(sources), 1 / len(sources))
    for _ in range(steps):
        explained = np.full(len(sources), 0.5)
        for likelihood in speaks:
            explained += weights * likelihood / (weights @ likelihood)
        weights = explained / explained.sum()
    return weights


def test_preferences_against_a_literal_loop(monkeypatch):
    rng = np.random.default_rng(0)
    train = random_train(rng)
    sources = [Source(rng.normal(size=(90, d)), b) for d, b in ((3, 2.0), (8, 5.0), (4, 0.0))]
    found = preferences(train, sources)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    for user in (0, 7, 59):
        expected = literal_weights(train, sources, user, module.STEPS)
        np.testing.assert_allclose(found[user], expected, atol=1e-9)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 1000)
    np.testing.assert_allclose(preferences(train, sources), found, atol=1e-12)


def test_one_item_says_nothing():
    train = Interactions.from_pairs(user=[0, 1, 1], item=[0, 1, 2], num_users=2, num_items=3)
    rows = np.random.default_rng(0).normal(size=(3, 2))
    found = preferences(train, [Source(rows, 3.0), Source(rows[::-1], 9.0)])
    np.testing.assert_allclose(found[0], 0.5)


def test_a_large_catalogue_is_sampled(monkeypatch):
    rng = np.random.default_rng(0)
    train = random_train(rng)
    sources = [Source(rng.normal(size=(90, 4)), 1.0), Source(rng.normal(size=(90, 4)), 1.0)]
    exact = preferences(train, sources)
    monkeypatch.setattr(module, "MOST_REFERENCES", 80)
    sampled = preferences(train, sources)
    assert 0 < np.abs(sampled - exact).max() < 0.1


def test_what_is_planted_is_found():
    data = load_dataset("synthetic", data_root="")
    options = dict(exchanges=8, user_power=0.25, item_power=0.25, shrinkage=0.3)
    items, _ = spectral_start(data.train, 64, **options)
    contents = (Source(data.features[name], 7.0) for name in ("text", "image"))
    found = preferences(data.train, [Source(items, 3.0), *contents])
    for source in range(3):
        assert stats.spearmanr(found[:, source], data.planted[:, source]).statistic > 0.7
