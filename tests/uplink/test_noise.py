"""The law of the noise, by its moments over many draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedvlr_jax.uplink import central_noise, client_noise, no_noise

SIZE = 200_000


def drawn(noise, weight, bound, seed=0):
    tree = {"a": jnp.zeros((SIZE // 2, 2)), "b": jnp.zeros(SIZE)}
    return noise.add(jax.random.key(seed), tree, jnp.asarray(weight, jnp.float32), bound)


@pytest.mark.parametrize(
    "noise, expected",
    [
        # sum_u alpha_u N(0, (2 * 3)^2) for alpha = 1/2, 1/4, 1/4.
        (lambda: client_noise(2.0), 6 * np.sqrt(1 / 4 + 1 / 16 + 1 / 16)),
        (lambda: central_noise(2.0, denominator=30.0), 2 * 3 / 30),
    ],
    ids=["client", "central"],
)
def test_moments(noise, expected):
    found = drawn(noise(), [0.5, 0.25, 0.25, 0.0], 3.0)
    for leaf in found.values():
        values = np.asarray(leaf, np.float64).ravel()
        # Five standard errors of each moment.
        assert abs(values.mean()) < 5 * expected / np.sqrt(SIZE)
        assert values.std() == pytest.approx(expected, rel=5 / np.sqrt(2 * SIZE))
        assert abs(stats.kurtosis(values)) < 5 * np.sqrt(24 / SIZE)


def test_leaves_columns_and_rounds_are_independent():
    first = drawn(client_noise(1.0), [1.0], 1.0)
    second = drawn(client_noise(1.0), [1.0], 1.0, seed=1)
    pairs = [
        (first["a"][:, 0], first["a"][:, 1]),
        (first["a"].ravel(), first["b"]),
        (first["b"], second["b"]),
    ]
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(len(one))


def test_no_noise_keeps_the_bits():
    tree = {"a": jnp.arange(3.0)}
    assert no_noise().add(jax.random.key(0), tree, jnp.ones(1), 1.0) is tree


def test_noise_is_added_to_what_is_there():
    tree = {"a": jnp.full(SIZE, 7.0)}
    for noise in (client_noise(1.0), central_noise(1.0, 1.0)):
        found = np.asarray(noise.add(jax.random.key(0), tree, jnp.ones(1), 1.0)["a"])
        assert found.mean() == pytest.approx(7.0, abs=5 / np.sqrt(SIZE))


def test_only_central_noise_can_be_a_step_of_its_own():
    assert not no_noise().always and not client_noise(1.0).always
    assert not central_noise(1.0, 1.0).always and central_noise(1.0, 1.0, always=True).always
