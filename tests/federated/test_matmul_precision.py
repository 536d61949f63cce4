"""Operands of the dense plan's products in less than float32: used, near, refused elsewhere."""

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.matmul_precision import full_precision, make_product
from fedvlr_jax.simulation import make_simulation


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 40, "items": 50})


def trained(dataset, **choices):
    config = Config.from_flat(width=8, router_hidden=8, local_epochs=2, **choices)
    simulation = make_simulation(config, dataset)
    return simulation.run_rounds(simulation.init(), 3)


@pytest.mark.slow
def test_bf16_rounds_operands_and_stays_near(dataset):
    (_, metrics), (state, rounded) = (
        trained(dataset, matmul_precision=precision) for precision in ("float32", "bf16")
    )
    assert (np.asarray(metrics.loss) != rounded.loss).all()
    np.testing.assert_allclose(rounded.loss, metrics.loss, rtol=3e-3)
    for leaf in jax.tree.leaves(state.private):
        assert leaf.dtype == np.float32


def test_a_product_takes_what_it_says_and_sums_in_full():
    """bf16 has 8 bits of mantissa: 1 + 1/512 becomes 1, and 4096 of them sum to 4096 exactly."""
    a, b = np.full((1, 4096), 1 + 1 / 512, np.float32), np.ones((4096, 1), np.float32)
    assert float(make_product("bf16")("ki,ig->kg", a, b)[0, 0]) == 4096
    assert float(make_product("float32")("ki,ig->kg", a, b)[0, 0]) == 4104


@pytest.mark.parametrize(("precision", "bits"), [("float32", "HIGHEST"), ("tf32", "HIGH")])
def test_what_a_gpu_is_asked_for(precision, bits):
    product = make_product(precision)
    traced = jax.jit(lambda a, b: product("ki,ig->kg", a, b)).trace(
        np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    )
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert f"precision = [{bits}, {bits}]" in text


def test_nothing_is_left_to_the_device():
    with full_precision():
        text = str(jax.make_jaxpr(lambda a: a @ a)(np.ones((2, 2), np.float32)))
    assert "HIGHEST" in text


def test_where_it_would_change_nothing_it_is_refused(dataset):
    for choices in (
        dict(backbone="fedncf", matmul_precision="bf16"),
        dict(matmul_precision="tf32"),
    ):
        with pytest.raises(InputError, match=r"matmul_precision="):
            make_simulation(Config.from_flat(**choices), dataset)
