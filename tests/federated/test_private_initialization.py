"""The spectral initialization under central privacy: its sensitivity, its noise, its accounts."""

import json

import numpy as np
import pytest

from fedvlr_jax.commands.members import make_member
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.federated.exchanges import exchanges_of
from fedvlr_jax.federated.private_initialization import (
    answers,
    noise_generator,
    noisy_sum,
    own_scale,
    private_spectral_initialization,
)
from fedvlr_jax.privacy.statement import lines, statement
from fedvlr_jax.simulation import make_simulation

PRIVATE = dict(privacy="central", clip_norm=0.1, init="spectral", init_exchanges=3)
SMALL = dict(width=8, local_epochs=1, rounds=4, eval_every=2, baselines=False, fusion="none")


def histories(seed, users=80, items=50, share=0.1):
    return np.random.default_rng(seed).random((users, items)) < share


def train_of(matrix):
    user, item = np.nonzero(matrix)
    sizes = dict(num_users=matrix.shape[0], num_items=matrix.shape[1])
    return Interactions.from_pairs(user=user, item=item, **sizes)


def test_the_noise_of_the_exchanges_is_no_other_draw_of_the_run():
    """(seed, number) is the entropy of the cohort of a round, with any number."""
    first = lambda generator: generator.integers(2**63, size=4).tolist()
    drawn = [first(np.random.default_rng((3, number))) for number in (0, 1, 0x5EC7)]
    assert first(noise_generator(3)) not in [*drawn, first(np.random.default_rng(3))]
    assert first(noise_generator(3)) == first(noise_generator(3)) != first(noise_generator(4))


@pytest.mark.parametrize("seed", range(10))
def test_one_client_moves_a_sum_by_one(seed):
    """Jointly over all numbers of its answer, whatever its history and the basis."""
    rng = np.random.default_rng(seed)
    matrix = histories(seed, share=rng.uniform(0.01, 0.9))
    matrix[0] = False
    matrix[1] = True
    basis = np.linalg.qr(rng.standard_normal((50, 6)))[0]
    silent = lambda rows: noisy_sum(train_of(rows).matrix, basis, 0.0, rng)
    whole = silent(matrix)
    moved = [np.linalg.norm(whole - silent(np.delete(matrix, u, axis=0))) for u in range(80)]
    has = matrix.any(axis=1)
    np.testing.assert_allclose(np.array(moved)[has], 1.0, rtol=1e-12)
    assert not np.array(moved)[~has].any()
    # The answer is a product of two factors: one row of x / |x|, and its unit projection.
    rows, projected = answers(train_of(matrix).matrix, basis)
    np.testing.assert_allclose(rows.toarray()[1], np.full(50, 50**-0.5))
    np.testing.assert_allclose(rows.T @ projected, whole)


def test_noise_is_on_every_number_and_independent():
    """2e5 numbers: the deviation within 0.7 %, and the mean within four deviations.

    Items that nobody has get noise like all others.
    """
    of_users, rng = histories(0), np.random.default_rng(1)
    of_users[:, :10] = False
    matrix = train_of(of_users).matrix
    basis = np.linalg.qr(rng.standard_normal((50, 8)))[0]
    whole = noisy_sum(matrix, basis, 0.0, rng)
    draws = np.stack([noisy_sum(matrix, basis, 3.0, rng) - whole for _ in range(500)])
    assert draws.std() == pytest.approx(3.0, rel=0.007)
    assert abs(draws.mean()) < 4 * 3.0 / draws.size**0.5
    flat = draws.reshape(500, -1)
    assert np.abs(flat.std(axis=0) / 3.0 - 1).max() < 0.16
    assert np.abs(np.corrcoef(flat[:, :20].T) - np.eye(20)).max() < 0.22


def test_without_noise_it_finds_the_directions_of_the_histories():
    """Four groups of users with their own items: four directions, one for each."""
    matrix = np.kron(np.eye(4, dtype=bool), np.ones((20, 10), bool))
    options = dict(exchanges=3, multiplier=1e-9, shrinkage=0.0, seed=0)
    items, vectors = private_spectral_initialization(train_of(matrix), 4, **options)
    np.testing.assert_allclose(vectors @ items.T, matrix / np.sqrt(10), atol=1e-6)
    noisy, _ = private_spectral_initialization(train_of(matrix), 4, **(options | {"multiplier": 1}))
    other, _ = private_spectral_initialization(
        train_of(matrix), 4, **(options | {"multiplier": 1, "seed": 1})
    )
    assert not np.allclose(noisy, other) and noisy.any(axis=1).all()


def test_a_wide_table_is_filled_with_zeros():
    items, vectors = private_spectral_initialization(
        train_of(histories(2)), 60, exchanges=2, multiplier=1.0, shrinkage=0.3, seed=0
    )
    assert items.shape == (50, 60) and vectors.shape == (80, 60)
    assert items[:, 49].any() and not items[:, 50:].any() and np.isfinite(vectors).all()


def test_each_client_scales_its_own_vector():
    """Means of own scores 2 and 0.25; the second is below |vector| = 1, the third has none."""
    train = train_of(np.array([[1, 1], [0, 1], [0, 0]], bool))
    items, vectors = np.array([[3.0, 0.0], [1.0, 0.25]]), np.array([[1.0, 0], [0, 1.0], [0, 0]])
    np.testing.assert_allclose(own_scale(train, items, vectors), [[0.5], [1.0], [1.0]])


@pytest.fixture(scope="module")
def dataset():
    sizes = {"users": 60, "items": 60, "seed": 0}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


def config(**flags):
    return Config.from_flat(**(SMALL | PRIVATE | flags))


def test_a_simulation_begins_with_it(dataset):
    simulation = make_simulation(config(noise_multiplier=2.0), dataset)
    initial = simulation.setup.initialization
    options = dict(exchanges=3, multiplier=2.0, shrinkage=0.3, seed=0)
    items, vectors = private_spectral_initialization(dataset.train, 8, **options)
    found = initial.clients["vector"] @ initial.items.T
    expected = vectors @ items.T
    aligned = np.sum(found * expected, axis=1) / np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(aligned, np.linalg.norm(found, axis=1), rtol=1e-5)
    np.testing.assert_array_equal(simulation.init().server.shared["items"], initial.items)
    (exchange,) = exchanges_of(simulation.config, simulation.model, dataset, initial)
    assert "3 exchanges with noise" in exchange.line
    other = make_simulation(config(noise_multiplier=2.0, seed=1), dataset)
    assert not np.array_equal(other.setup.initialization.items, initial.items)


def test_the_statement_has_the_exchanges(dataset):
    asked = config(target_epsilon=8.0, target_delta=1e-3)
    simulation = make_simulation(asked, dataset)
    resolved = simulation.config
    before, after = (statement(resolved, 60, rounds) for rounds in (0, 4))
    assert json.loads(json.dumps(before)) == before
    assert 3.9 < before["exchanges"]["epsilon"]["pld"] <= 4.0
    assert before["epsilon"]["spent"] == before["exchanges"]["epsilon"]
    assert 7.9 < after["epsilon"]["spent"]["pld"] <= 8.0
    assert any("exchanges" in name for name in after["covered"])
    assert "3 exchanges with all 60 users, noise multiplier" in " ".join(lines(after))
    # A later start resolves to the same noise, whatever its --rounds.
    longer = Config.from_flat(**(resolved.flat | {"rounds": 9, "init_noise_multiplier": 0.0}))
    assert make_simulation(longer, dataset).config.init == resolved.init


def test_members_of_several_seeds_have_their_own_noise():
    """One compiled program trains members with one initialization."""
    base = config(noise_multiplier=2.0, workdir="runs")
    programs = [make_member(base, (), seed).program for seed in (0, 1)]
    assert programs[0] != programs[1]
    plain = Config.from_flat(**(SMALL | {"init": "spectral", "workdir": "runs"}))
    assert make_member(plain, (), 0).program == make_member(plain, (), 1).program
