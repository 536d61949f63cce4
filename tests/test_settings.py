"""What a simulation computes does not depend on the settings of JAX around it."""

import ast
import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.settings import SETTINGS, compiled, key_of, overruled, shapes_of
from fedvlr_jax.simulation import make_simulation
from tests.conftest import mostly_slow
from tests.test_imports import PACKAGE

HOSTILE = {
    "jax_threefry_partitionable": False,
    "jax_default_prng_impl": "rbg",
    "jax_enable_x64": True,
    "jax_default_matmul_precision": "bfloat16",
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_disable_jit": True,
    "jax_transfer_guard": "disallow",
    # Nothing of these is used: they have no context.
    "jax_random_seed_offset": 7,
    "jax_high_dynamic_range_gumbel": True,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
}


@contextlib.contextmanager
def process_with(name, value):
    """As an environment variable has it: for all threads, until it is changed."""
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def bits_of(simulation):
    """Of everything that a simulation computes."""
    state = simulation.init(seed=3)
    state, metrics = simulation.run_rounds(state, 2)
    results = (
        simulation.pack(state)["private"],
        state.server._replace(key=jax.random.key_data(state.server.key)),
        metrics,
        simulation.evaluate(state, "test"),
        simulation.router_weights(state),
        simulation.recommend(state, 5),
    )
    leaves = jax.device_get(jax.tree.leaves(results))
    return [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in map(np.asarray, leaves)]


@pytest.fixture(scope="module")
def simulation():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 60})
    choices = dict(
        width=8, router_hidden=8, local_epochs=2, client_dropout=0.2, negatives="sampled"
    )
    return make_simulation(Config.from_flat(**choices), dataset)


@pytest.fixture(scope="module")
def expected(simulation):
    return bits_of(simulation)


@pytest.mark.parametrize("name", mostly_slow(HOSTILE, 3))
def test_no_setting_of_the_process_changes_a_bit(name, simulation, expected):
    """With one compiled program for all of them: a setting that reached it would compile anew."""
    with process_with(name, HOSTILE[name]):
        assert bits_of(simulation) == expected
        again = make_simulation(simulation.config, simulation.dataset)
        assert again.initial.client_shapes == simulation.initial.client_shapes
        assert overruled() == ([name] if name in SETTINGS else [])
    if name in SETTINGS:
        assert simulation.on_device.run.__wrapped__._cache_size() == 1


def test_the_compiler_keeps_arithmetic_as_it_is_written():
    """XLA otherwise multiplies by the reciprocal, in some programs and not in others."""
    rng = np.random.default_rng(0)
    total = rng.uniform(1, 2, (40, 30)).astype(np.float32)
    count = rng.integers(1, 50, (40, 1)).astype(np.float32)
    mean = compiled(lambda total, count: total / count, as_written=True)
    np.testing.assert_array_equal(mean(total, count), total / count)


def test_a_key_has_the_bits_of_its_seed():
    for seed in (0, 1, 2**31 - 1):
        key = jax.random.key(seed, impl="threefry2x32")
        assert np.array_equal(jax.random.key_data(key_of(seed)), jax.random.key_data(key))


def test_the_library_compiles_and_seeds_through_its_settings():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stem == "settings":
            continue
        used = {ast.unparse(n) for n in ast.walk(ast.parse(path.read_text())) if is_attribute(n)}
        assert not used & {"jax.jit", "jax.random.key", "jax.random.PRNGKey"}, path


def is_attribute(node):
    return isinstance(node, ast.Attribute)


def test_a_function_that_is_compiled_as_written_works_inside_another():
    """JAX refuses options of the compiler inside a trace, as of `shapes_of`."""
    inner = compiled(lambda x: x / 3, as_written=True)
    assert shapes_of(inner, jnp.float32(1)).dtype == jnp.float32
    assert compiled(lambda x: inner(x) + 1)(jnp.float32(3)) == 2
