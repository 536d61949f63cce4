"""Krum from the factors of the dense plan against Krum of the uploads as arrays, on real data."""

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.uplink import LowRankUploads, Uploads


def step_of(config, dataset):
    """What one round changes in the server's parameters, as one vector."""
    simulation = make_simulation(config, dataset)
    assert simulation.plan == "dense"
    state = simulation.init()
    flat = lambda state: np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(state.server.shared))]
    )
    before = flat(state)
    state, _ = simulation.run_rounds(state, 1)
    return flat(state) - before


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        ("KU", "none"),
        pytest.param("KU", "bilevel", marks=SLOW),
        pytest.param("ML", "none", marks=SLOW),
        pytest.param("ML", "bilevel", marks=SLOW),
    ],
)
def test_factors_give_the_step_of_whole_uploads(name, fusion, data_root, monkeypatch):
    dataset = load_dataset(name, data_root=data_root)
    config = Config.from_flat(
        aggregation="krum",
        fusion=fusion,
        protocol="paper",
        server_optimizer="sgd",
        server_lr_items=1.0,
        server_lr_fusion=1.0,
        server_decay=0.0,
    )
    by_factors = step_of(config, dataset)
    # The inner products of arrays, built block by block.
    monkeypatch.setattr(LowRankUploads, "products", Uploads.products)
    whole = step_of(config, dataset)
    assert np.abs(whole).max() > 0
    assert np.linalg.norm(by_factors - whole) <= 1e-5 * np.linalg.norm(whole)
