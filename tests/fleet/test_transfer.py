"""Bytes of transfers equal those of the serialised arrays, and these can be read again."""

import jax
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.registry import load_dataset
from fedvlr_jax.fleet import SCHEMES, round_bytes
from fedvlr_jax.fleet.transfer import Shape, parsed, serialised
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.workload import touched_rows, upload_shape
from fedvlr_jax.uplink.compress import quantised


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("items, touched", [(13, 5), (16, 16), (8, 0)])
def test_counted_bytes_are_those_that_are_sent(scheme, items, touched):
    rng = np.random.default_rng(items)
    views = np.zeros((items, 6), np.float32)
    views[rng.choice(items, touched, replace=False)] = rng.normal(size=(touched, 6))
    head = rng.normal(size=3).astype(np.float32)
    shape = Shape(items, 6, 3)
    data = serialised(views, head, scheme)
    assert len(data) == round_bytes(shape, touched, scheme)
    for found, given in zip(parsed(data, shape, scheme), (views, head), strict=True):
        np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [2, 5, 16])
def test_quantised_rows_are_sent_in_their_bits(scheme, bits):
    rng = np.random.default_rng(bits)
    views = np.zeros((13, 1, 6), np.float32)
    views[[2, 5, 12]] = rng.normal(size=(3, 1, 6))
    views = np.asarray(quantised(jax.random.key(0), views, bits))[:, 0]
    head = rng.normal(size=3).astype(np.float32)
    shape, touched = Shape(13, 6, 3, bits), int((views != 0).any(axis=1).sum())
    data = serialised(views, head, scheme, bits)
    assert len(data) == round_bytes(shape, touched, scheme)
    found = parsed(data, shape, scheme)
    np.testing.assert_allclose(found[0], views, rtol=1e-6)
    np.testing.assert_array_equal(found[1], head)


@pytest.mark.parametrize("backbone, negatives", [("fcf", "expected"), ("fedavg", "sampled")])
def test_the_shape_is_that_of_a_real_upload(backbone, negatives):
    """One client alone: the table moves on as many rows as it is said to touch, at most."""
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 30, "items": 60})
    config = Config.from_flat(
        backbone=backbone,
        fusion="none",
        width=4,
        negatives=negatives,
        num_negatives=1,
        local_epochs=1,
        cohort=1,
        server_optimizer="sgd",
        server_decay=0.0,
        rounds=1,
        eval_every=1,
    )
    simulation = make_simulation(config, dataset)
    (client,) = np.concatenate(
        [
            b[r]
            for b, r in zip(simulation.buckets, simulation.sampling.sampled_rows(0, 0), strict=True)
        ]
    )
    state = simulation.init(0)
    before = np.array(state.server.shared["items"])
    state, _ = simulation.run_rounds(state, 1)
    moved = (np.asarray(state.server.shared["items"]) != before).any(axis=1).sum()
    shape, touched = upload_shape(simulation.setup), touched_rows(simulation.setup)[client]
    assert (shape.items, shape.row) == (60, 4)
    assert shape.head == sum(np.size(x) for x in state.server.shared["head"].values())
    assert (moved == touched == 60) if negatives == "expected" else (0 < moved <= touched < 60)
