"""The blend of the autoencoder and iALS: against literal clients, and when validation takes it."""

import dataclasses

import numpy as np
import pytest

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.federated import ease_settings as module
from fedvlr_jax.federated.ease import autoencoder
from fedvlr_jax.federated.ease_settings import Wanted, blend_of, ease_initialization
from fedvlr_jax.federated.ials import SETTINGS, Blend, item_vectors, num_factors, uploaded_numbers
from tests.federated.random_data import random_dataset

USERS, ITEMS = 25, 18
GIVEN = Wanted(
    content=0.0, normalization=0.0, recency=0.0, transitions=0.0, ridge=2.0, exchanges=50
)


@pytest.fixture(scope="module")
def dataset():
    """Random histories with times; nobody has the last item."""
    return random_dataset(1, USERS, ITEMS, unseen=1, share=0.4, parts=6)


def client_vector(history, weights, items, l2=30.0):
    """One client's own problem, over all items."""
    confidence, has = np.ones(len(items)), np.zeros(len(items))
    confidence[history] += 20.0 * weights
    has[history] = 1.0
    system = l2 * np.eye(items.shape[1])
    for c, q in zip(confidence, items, strict=True):
        system += c * np.outer(q, q)
    return np.linalg.solve(system, items.T @ (confidence * has))


def literal_items(train, items, l2=30.0):
    """Three sweeps; the server sees sums of the clients' uploads only."""
    width = items.shape[1]
    for _ in range(3):
        everybody = np.zeros((width, width))
        products, firsts = np.zeros((ITEMS, width, width)), np.zeros((ITEMS, width))
        for u in range(USERS):
            history = train.of(u)
            p = client_vector(history, np.ones(len(history)), items, l2)
            everybody += np.outer(p, p)
            for i in history:
                products[i] += np.outer(p, p)
                firsts[i] += p
        items = np.stack(
            [
                np.linalg.solve(everybody + 20.0 * product + l2 * np.eye(width), 21.0 * first)
                for product, first in zip(products, firsts, strict=True)
            ]
        )
    return items


@pytest.mark.parametrize("l2", [30.0, 100.0])
def test_the_items_are_those_of_literal_clients(dataset, l2):
    begin = np.random.default_rng(0).normal(size=(ITEMS, 3))
    found = item_vectors(dataset.train, begin, l2)
    np.testing.assert_allclose(found, literal_items(dataset.train, begin, l2), atol=1e-10)
    assert not found[-1].any()


def test_what_a_client_sends():
    # Three sweeps: the upper triangle of p p^T (6), and p (3), of an item; the triangle once more.
    assert uploaded_numbers(3) == (3 * 9, 3 * 6)


def prefer(monkeypatch, setting):
    """Validation prefers the blend with `setting`, by 1, to all others."""
    gains = lambda model, history, targets: (
        np.array([-0.1, 0.1])
        + (isinstance(model, Blend) and (len(model.factors.T), model.l2) == setting)
    )
    monkeypatch.setattr(module, "_gains", gains)


@pytest.mark.parametrize(("recency", "columns", "l2"), [(0.0, 3, 30.0), (0.5, 6, 100.0)])
def test_the_blend_is_the_mean_of_standardized_scores(dataset, recency, columns, l2, monkeypatch):
    prefer(monkeypatch, (columns, l2))
    found = ease_initialization(dataset, 12, GIVEN._replace(recency=recency, ials=True))
    assert found.ials == (12 // columns, l2)
    assert found.items.shape == (ITEMS, 12) and found.vectors.shape == (USERS, 12)
    model = autoencoder(
        dataset.train, [], 12, content=0.0, normalization=0.0, ridge=2.0, exchanges=50
    )
    history = dataset.train.weighted_by_recency(recency) if recency else dataset.train
    weights = [history.weighted_matrix[[u]].toarray()[0] for u in range(USERS)]
    # The truncation of the closed form is the closed form of that width.
    rest = 12 - columns
    narrow = ease_initialization(dataset, rest, GIVEN._replace(recency=recency, ials=False))
    by_ease = narrow.vectors @ narrow.items.T
    # iALS begins with V s^(1/4) of the largest eigenvalues of X^T X.
    gram = (dataset.train.matrix.T @ dataset.train.matrix).toarray()
    eigenvalues = np.linalg.eigvalsh(gram)[::-1][:columns]
    begin = model.directions[:, :columns]
    np.testing.assert_allclose(gram @ begin, begin * eigenvalues, atol=1e-6)
    items = literal_items(dataset.train, begin * eigenvalues**0.25, l2)
    by_ials = np.stack(
        [
            items @ client_vector(dataset.train.of(u), weights[u][dataset.train.of(u)], items, l2)
            for u in range(USERS)
        ]
    )
    spread = lambda scores: np.sqrt(np.mean([np.var(row) for row in scores]))
    expected = by_ease / spread(by_ease) + by_ials / spread(by_ials)
    np.testing.assert_allclose(found.vectors @ found.items.T, expected, atol=1e-5)
    # Both parts of the table have the scale of a drawn one.
    for part in (found.items[:, :rest], found.items[:, rest:]):
        np.testing.assert_allclose(np.mean(np.square(part)), 1.0)


def test_a_client_without_a_history_scores_nothing(dataset):
    kept = dataset.train.users > 0
    train = Interactions.from_pairs(
        user=dataset.train.users[kept],
        item=dataset.train.item[kept],
        num_users=USERS,
        num_items=ITEMS,
    )
    found = ease_initialization(
        dataclasses.replace(dataset, train=train), 8, GIVEN._replace(ials=True)
    )
    assert not found.vectors[0].any() and np.isfinite(found.items).all()


@pytest.mark.parametrize(("gain", "taken"), [(0.4, False), (0.6, True)])
def test_validation_takes_the_blend_if_it_is_half_an_error_ahead(dataset, gain, taken, monkeypatch):
    ahead = gain + np.array([1.0, -1.0, 1.0, -1.0]) * np.sqrt(3)  # A standard error of 1.
    gains = lambda model, history, targets: ahead * isinstance(model, Blend)
    monkeypatch.setattr(module, "_gains", gains)
    found = ease_initialization(dataset, 8, GIVEN._replace(ials=None)).ials
    assert found == (SETTINGS[0] if taken else None)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("asked", [None, True])
def test_validation_takes_the_best_blend(dataset, setting, asked, monkeypatch):
    prefer(monkeypatch, (8 // setting.parts, setting.l2))
    assert ease_initialization(dataset, 8, GIVEN._replace(ials=asked)).ials == setting


def test_without_validation_or_columns_there_is_no_blend(dataset):
    assert module.tried_ials(dataset, 4, None) == SETTINGS
    assert not module.tried_ials(dataset, 3, None)
    nobody = Interactions.from_pairs(user=[], item=[], num_users=USERS, num_items=ITEMS)
    unjudged = dataclasses.replace(dataset, valid=nobody)
    assert not module.tried_ials(unjudged, 8, None)
    assert not ease_initialization(unjudged, 8, GIVEN._replace(ials=None)).ials
    assert ease_initialization(unjudged, 8, GIVEN._replace(ials=True)).ials == SETTINGS[0]


def test_the_blend_is_as_wide_as_the_autoencoder(dataset):
    model = autoencoder(
        dataset.train, [], 10, content=0.0, normalization=0.0, ridge=2.0, exchanges=50
    )
    blend = blend_of(model, model, dataset.train, SETTINGS[0])
    assert blend.autoencoder.directions.shape == (ITEMS, 8) and blend.factors.shape == (ITEMS, 2)
    # A wide table: not more factors than items, or one system takes more than the table.
    assert num_factors(dataset.train, 4 * ITEMS + 40, 4) == ITEMS
