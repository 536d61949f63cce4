"""--init=ease under central privacy: its sensitivity, its noise, and what it may depend on."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated import private_ease
from fedvlr_jax.federated.ease_settings import Wanted
from fedvlr_jax.federated.exchanges import exchanges_of
from fedvlr_jax.federated.private_ease import noise_norm, noisy_gram, private_autoencoder
from fedvlr_jax.simulation import make_simulation

SMALL = dict(width=8, local_epochs=1, rounds=4, eval_every=2, baselines=False, fusion="none")
PRIVATE = dict(privacy="central", clip_norm=0.1, init="ease", noise_multiplier=2.0)


def gram_of(matrix, multiplier=0.0, seed=0):
    user, item = np.nonzero(matrix)
    sizes = dict(num_users=matrix.shape[0], num_items=matrix.shape[1])
    train = Interactions.from_pairs(user=user, item=item, **sizes)
    return noisy_gram(train.matrix.astype(np.float64), multiplier, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(2, 12), st.integers(1, 15))), st.data())
def test_one_client_moves_the_sum_by_one(matrix, data):
    """In the Frobenius norm, whatever the histories of the client and of all others."""
    client = data.draw(st.integers(0, len(matrix) - 1))
    moved = gram_of(matrix) - gram_of(np.delete(matrix, client, axis=0))
    expected = float(matrix[client].any())
    np.testing.assert_allclose(np.linalg.norm(moved), expected, rtol=1e-9, atol=1e-9)
    # As long as the vector of the diagonal and sqrt(2) times each pair, on which the noise is.
    upper = np.triu(moved, 1) * np.sqrt(2) + np.diag(np.diag(moved))
    np.testing.assert_allclose(np.linalg.norm(upper), expected, rtol=1e-9, atol=1e-9)


def test_noise_is_symmetric_and_independent_with_the_stated_deviations():
    """4,000 draws of 6 x 6, two items of which nobody has: deviations within 5 %."""
    matrix = np.random.default_rng(0).random((9, 6)) < 0.5
    matrix[:, :2] = False
    whole = gram_of(matrix)
    draws = np.stack([gram_of(matrix, 3.0, seed) - whole for seed in range(4000)])
    np.testing.assert_array_equal(draws, np.swapaxes(draws, 1, 2))
    expected = np.full((6, 6), 3.0 / np.sqrt(2))
    np.fill_diagonal(expected, 3.0)
    np.testing.assert_allclose(draws.std(axis=0), expected, rtol=0.05)
    assert np.abs(draws.mean(axis=0)).max() < 4 * 3.0 / 4000**0.5
    pairs = draws[:, *np.triu_indices(6)]
    assert np.abs(np.corrcoef(pairs.T) - np.eye(21)).max() < 0.08


def test_the_spectral_norm_of_the_noise():
    noise = gram_of(np.zeros((1, 500), bool), 1.7)
    assert np.linalg.norm(noise, 2) == pytest.approx(noise_norm(500, 1.7), rel=0.05)


def test_the_scores_are_those_of_the_formula():
    """At full width, against (M + c m F F^T + l I)^-1 in plain NumPy, with the noise in M."""
    rng = np.random.default_rng(1)
    matrix = rng.random((200, 12)) < 0.3
    gram = gram_of(matrix, 0.3)
    lengths = np.maximum(matrix.sum(axis=1), 1)
    exact = sum(np.outer(row, row) / n for row, n in zip(1.0 * matrix, lengths, strict=True))
    upper = np.random.default_rng(0)
    noise = np.zeros((12, 12))
    for item in range(12):
        drawn = 0.3 * upper.standard_normal(12 - item)
        noise[item, item], noise[item, item + 1 :] = drawn[0], drawn[1:] / np.sqrt(2)
    noise += np.triu(noise, 1).T
    np.testing.assert_allclose(gram, exact + noise, atol=1e-12)
    features = [rng.standard_normal((12, width)) for width in (2, 3)]
    joined = np.hstack(features)
    mean, edge = 200 / 12, 0.3 * np.sqrt(24)
    ridge = 1.5 * mean + 4.0 * edge * (1 + edge / (50 * mean))
    values = np.linalg.eigvalsh(joined.T @ joined)
    scale = 1.5 * ridge / (np.sum(values**2) / np.sum(values))
    popular = np.maximum(np.diag(exact + noise) - 0.3 * np.sqrt(2 * np.log(12)), 0.0)
    assert popular.any()
    summed = exact + noise + scale * joined @ joined.T
    summed += ridge * np.outer(popular, popular) / np.sum(popular**2)
    assert np.linalg.eigvalsh(summed).min() > 0
    inverse = np.linalg.inv(summed + ridge * np.eye(12))
    weights = np.eye(12) - inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    model, content = private_autoencoder(
        gram, features, 14, Wanted(1.5, 1), num_users=200, multiplier=0.3
    )
    assert content == pytest.approx(scale / mean)
    history = 1.0 * matrix[:5]
    scores = (history @ model.projected) @ model.items.T
    outside = ~matrix[:5]
    np.testing.assert_allclose(scores[outside], (history @ weights)[outside], rtol=1e-6)
    assert model.items.shape == (12, 14) and not model.items[:, 12:].any()


def test_noise_alone_gives_finite_rows():
    gram = gram_of(np.zeros((1, 30), bool), 5.0)
    model, content = private_autoencoder(gram, [], 40, Wanted(0.0, 1), num_users=50, multiplier=5.0)
    assert np.isfinite(model.items).all() and content == 0.0


def dataset(seed=0):
    sizes = {"users": 60, "items": 60, "seed": seed}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


def config(**flags):
    return Config.from_flat(**(SMALL | PRIVATE | flags))


def test_the_table_depends_on_the_clients_by_the_noisy_sum_alone(monkeypatch):
    """Other histories, validation items and times change no bit if the noisy sum is the same."""
    first = dataset()
    other = dataclasses.replace(dataset(1), features=first.features)
    fixed = gram_of(np.random.default_rng(3).random((60, 60)) < 0.1, 2.0)
    monkeypatch.setattr(private_ease, "noisy_gram", lambda *_: fixed.copy())
    found = [make_simulation(config(), data).setup.initialization for data in (first, other)]
    for one, two in zip(found[0]._replace(clients=()), found[1]._replace(clients=()), strict=True):
        np.testing.assert_array_equal(one, two)
    vectors = [each.clients["vector"] for each in found]
    assert not np.array_equal(*vectors)


def test_a_simulation_begins_with_it():
    data = dataset()
    simulation = make_simulation(config(), data)
    initial = simulation.setup.initialization
    np.testing.assert_array_equal(simulation.init().server.shared["items"], initial.items)
    (exchange,) = exchanges_of(simulation.config, simulation.model, data, initial)
    assert "one noisy matrix of 60 x 60" in exchange.line and "no iALS" in exchange.line
    assert exchange.up == 1 and exchange.down == 60 * 8
    again, other = (
        make_simulation(config(seed=seed), data).setup.initialization.items for seed in (0, 1)
    )
    np.testing.assert_array_equal(again, initial.items)
    assert not np.array_equal(other, initial.items)


def test_given_settings_act():
    data = dataset()
    start = lambda **flags: make_simulation(config(**flags), data).setup.initialization
    plain = start()
    assert plain.content > 0 and plain.recency == 0 and not plain.ials.any()
    assert start(init_content=3.0).content == 3.0
    assert not np.array_equal(start(init_ridge=1.0).items, plain.items)
    aged = start(init_recency=0.5)
    assert aged.recency == 0.5
    np.testing.assert_array_equal(aged.items, plain.items)
    assert not np.array_equal(aged.clients["vector"], plain.clients["vector"])


def test_a_catalogue_beyond_the_memory_is_refused():
    with pytest.raises(InputError, match=r"init=ease: needs about .* give init=spectral, or"):
        make_simulation(config(memory_budget_gb=0.0002), dataset())
