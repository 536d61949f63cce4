"""Banded matrix factorisation: its matrix, its noise, its groups, its place in a checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import toeplitz

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.federated.participation import banded_clients, poisson_clients
from fedvlr_jax.privacy.statement import lines, statement
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.uplink import band_coefficients, banded_noise, central_noise
from fedvlr_jax.uplink.noise import gaussian_like

ROUNDS = 12


def matrix(bands, rounds=ROUNDS):
    """C, float64 [T, T]."""
    column = np.zeros(rounds)
    column[:bands] = band_coefficients(bands)[:rounds]
    return toeplitz(column, np.zeros(rounds))


def test_all_bands_are_the_square_root_of_the_prefix_sums():
    root = matrix(ROUNDS) / band_coefficients(ROUNDS)[0]
    np.testing.assert_allclose(root @ root, np.tri(ROUNDS), atol=1e-12)
    # (2k choose k) / 4^k: 1, 1/2, 3/8.
    np.testing.assert_allclose(root[:3, 0], [1, 0.5, 0.375])


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_a_client_of_one_in_b_rounds_meets_columns_of_length_one(bands):
    strategy = matrix(bands)
    norms = np.linalg.norm(strategy, axis=0)
    assert norms.max() <= 1 + 1e-12 and norms[0] == pytest.approx(1.0)
    # Columns that are b or more apart have no row in common.
    for first in range(bands):
        assert np.count_nonzero(strategy[:, first::bands], axis=1).max() == 1


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_the_noise_of_all_rounds_is_c_inverse_z(bands):
    """Against a solve in float64, on every leaf; the deviation is 2 * 3 / 30."""
    noise = banded_noise(2.0, 30.0, band_coefficients(bands))
    zeros = {"a": jnp.zeros((40, 3)), "b": jnp.zeros(5)}
    state, found, drawn = noise.init(zeros), [], []
    for number in range(ROUNDS):
        key = jax.random.key(number)
        noisy, state = noise.next(key, zeros, jnp.ones(1), 3.0, state)
        found.append(noisy)
        drawn.append(gaussian_like(key, zeros))
    stacked = lambda rounds, name: np.stack([np.asarray(r[name], np.float64) for r in rounds])
    for name in zeros:
        fresh = stacked(drawn, name).reshape(ROUNDS, -1)
        expected = 0.2 * np.linalg.solve(matrix(bands), fresh)
        got = stacked(found, name).reshape(ROUNDS, -1)
        np.testing.assert_allclose(got, expected, atol=2e-6)


def test_one_band_is_the_gaussian_mechanism():
    upload = {"a": jnp.arange(6.0).reshape(2, 3)}
    banded, plain = banded_noise(2.0, 30.0, band_coefficients(1)), central_noise(2.0, 30.0)
    first, _ = banded.next(jax.random.key(0), upload, jnp.ones(1), 3.0, banded.init(upload))
    second = plain.add(jax.random.key(0), upload, jnp.ones(1), 3.0)
    np.testing.assert_array_equal(first["a"], second["a"])
    alone = banded.add(jax.random.key(0), upload, jnp.ones(1), 3.0)
    np.testing.assert_array_equal(alone["a"], second["a"])
    # A round without a response takes a step too, or its absence would tell that nobody responded.
    assert banded.always


def test_the_sum_of_the_rounds_has_less_noise():
    """Variance of the sum of 12 rounds: 12 with independent noise, 12 / 2.9 with four bands."""
    variance = lambda bands: np.sum(np.linalg.inv(matrix(bands)).sum(axis=0) ** 2)
    assert variance(1) == pytest.approx(12.0)
    assert variance(4) < 0.5 * variance(1)


def test_groups_take_turns():
    seen = {}
    sizes = []
    for number in range(400):
        clients = banded_clients(0, number, 50, 5, 4)
        assert (clients % 4 == number % 4).all() and (np.diff(clients) > 0).all()
        sizes.append(len(clients))
        for client in clients:
            assert number - seen.get(client, -4) >= 4
            seen[client] = number
    # 12.5 clients of a group, each with 4 * 5 / 50: five on average, sd 1.73 / 20 over 400 rounds.
    assert np.mean(sizes) == pytest.approx(5.0, abs=0.4) and len(seen) == 50
    np.testing.assert_array_equal(
        banded_clients(0, 3, 50, 10, 1), poisson_clients(0, 3, 50, 10, 50)
    )


@pytest.fixture(scope="module")
def dataset():
    sizes = {"users": 60, "items": 60, "seed": 0}
    return load_dataset("synthetic", data_root="", synthetic=sizes)


def config(**flags):
    small = dict(width=8, local_epochs=1, rounds=6, eval_every=3, baselines=False, fusion="none")
    private = dict(privacy="central", clip_norm=0.1, noise_multiplier=2.0, sampling="poisson")
    return Config.from_flat(**(small | private | {"cohort": 10, "noise_bands": 3} | flags))


def test_a_run_in_two_parts_is_the_run_in_one(dataset):
    """The noise of earlier rounds is in the checkpoint, and every store gives the same bits."""
    simulation = make_simulation(config(), dataset)
    whole, _ = simulation.run_rounds(simulation.init(), 6)
    state, _ = simulation.run_rounds(simulation.init(), 3)
    packed = simulation.pack(state)
    assert any("noise" in str(path) for path, _ in jax.tree.leaves_with_path(packed))
    again, _ = simulation.run_rounds(simulation.unpack(jax.device_get(packed)), 3)
    streamed = make_simulation(config(store="host"), dataset)
    hosted, _ = streamed.run_rounds(streamed.init(), 6)
    for other in (again, hosted):
        np.testing.assert_array_equal(whole.server.shared["items"], other.server.shared["items"])
        np.testing.assert_array_equal(whole.server.noise.views, other.server.noise.views)
    assert np.abs(whole.server.noise.views).min(axis=(2, 3)).max() > 0


def test_the_statement_names_the_bands(dataset):
    stated = statement(make_simulation(config(), dataset).config, 60, 6)
    assert stated["noise_bands"] == 3 and stated["sampler"]["probability"] == 0.5
    assert "a matrix of 3 bands correlates the noise" in " ".join(lines(stated))
