"""Flags that make numbers overflow, and what the error says about them."""

import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.config.magnitudes import MAGNITUDES, what_to_lower
from fedvlr_jax.data import load_dataset
from fedvlr_jax.errors import InputError, NonFiniteError
from fedvlr_jax.simulation import make_simulation

RANDOM = {"init": "random"}


def lowered(**choices):
    return what_to_lower(Config.from_flat(**choices))


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"init_score": 1e30}, "lower --init_score=1e+30"),
        ({"fedrap_l1": 1e30, "backbone": "fedrap"}, "lower --fedrap_l1=1e+30"),
        # 31 times the default of 1; 10 times that of 0.1.
        (
            {"init_score": 31.0, "init_scale": 1.01, "history_weight": 10.0},
            "lower --init_score=31 or --init_scale=1.01",
        ),
        # A flag without effect is not at fault.
        ({**RANDOM, "init_score": 1e30, "client_lr": 31.0}, "lower --client_lr=31"),
        (
            {**RANDOM, "fusion": "none", "item_lr": 1e30},
            "lower --client_lr=3 or --server_lr_items=0.05",
        ),
        (
            {"fusion": "none", "backbone": "fedavg"},
            "lower --server_lr_items=0.05 or --server_lr_head=0.01",
        ),
    ],
)
def test_the_flags_far_above_their_defaults_are_named(choices, expected):
    assert lowered(**choices) == expected
    assert lowered(**Config.from_flat(**choices).resolved.flat) == expected


def test_every_name_is_a_number():
    assert all(isinstance(Config().flat[name], float) for name in MAGNITUDES)


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 50})


def test_the_error_of_a_round_names_them(dataset):
    config = Config.from_flat(
        width=4, backbone="fedrap", fusion="none", init="random", fedrap_l1=1e30
    )
    simulation = make_simulation(config, dataset)
    with pytest.raises(NonFiniteError, match=r"; lower fedrap_l1=1e\+30$"):
        simulation.run_rounds(simulation.init(), 3)


def test_the_rows_of_a_loss_fit_int32(dataset):
    longest = int(dataset.train.counts.max())
    most = (2**31 - 1) // longest - 1
    make_simulation(Config.from_flat(width=4, init="random", num_negatives=most), dataset)
    with pytest.raises(InputError, match=rf"num_negatives={most + 1}: .* give at most {most}$"):
        make_simulation(Config.from_flat(width=4, num_negatives=most + 1), dataset)


@pytest.mark.parametrize("width", [1, 3])
def test_fedncf_needs_a_width_of_four(width):
    with pytest.raises(InputError, match=f"width={width}: .* give at least 4"):
        Config.from_flat(backbone="fedncf", width=width)
    assert Config.from_flat(backbone="fedncf", width=4)
    assert Config.from_flat(backbone="fcf", width=width)
