"""Low-rank uploads: what each client sends, added up, is what the server makes of the sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.config import Config
from fedvlr_jax.data.registry import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.simulation import make_simulation
from fedvlr_jax.simulation.workload import broadcast_shape, upload_shape
from fedvlr_jax.uplink import Upload, low_rank, no_noise
from fedvlr_jax.uplink.compress import shared_basis

ITEMS, VIEWS, WIDTH, RANK = 6, 2, 4, 3


def test_the_sum_of_what_clients_send_is_what_the_server_makes_of_the_sum():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(3, ITEMS, VIEWS, WIDTH)).astype(np.float32)
    head = {"bias": jnp.ones(2)}
    key = jax.random.key(4)
    found = low_rank(RANK, no_noise()).add(key, Upload(own.sum(axis=0), head), jnp.ones(3), 1.0)
    basis = np.asarray(shared_basis(jax.random.fold_in(key, 1), VIEWS * WIDTH, RANK))
    np.testing.assert_allclose(basis.T @ basis, np.eye(RANK), atol=1e-6)
    sent = [rows.reshape(ITEMS, -1) @ basis for rows in own]
    expected = sum(sent) @ basis.T
    np.testing.assert_allclose(found.views.reshape(ITEMS, -1), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.head["bias"], head["bias"])
    whole = low_rank(VIEWS * WIDTH, no_noise()).add(key, Upload(own[0], head), jnp.ones(1), 1.0)
    np.testing.assert_allclose(whole.views, own[0], rtol=1e-4, atol=1e-5)


def test_a_round_of_low_rank_uploads_and_its_bytes():
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 50})
    flags = dict(fusion="none", width=8, local_epochs=1, server_optimizer="sgd")
    config = Config.from_flat(**flags, server_decay=0.0, server_lr_items=30.0, upload_rank=2)
    simulation = make_simulation(config, dataset)
    before = np.array(simulation.init().server.shared["items"])
    state, _ = simulation.run_rounds(simulation.init(), 1)
    moved = np.asarray(state.server.shared["items"]) - before
    assert np.linalg.matrix_rank(moved, tol=1e-5) == 2
    # 8 numbers an item down, 2 up.
    setup = simulation.setup
    assert broadcast_shape(setup).row == 8 and upload_shape(setup).row == 2


@pytest.mark.parametrize(
    "flags, piece",
    [
        (dict(upload_rank=4, aggregation="median"), "--aggregation=median does not commute"),
        (dict(upload_rank=4, attack="alie"), "not compressed"),
        (dict(upload_rank=9, width=8, fusion="none"), "a row of the views has 8 numbers"),
    ],
)
def test_what_cannot_be_combined_is_refused(flags, piece):
    dataset = load_dataset("synthetic", data_root="", synthetic={"users": 20, "items": 50})
    with pytest.raises(InputError) as caught:
        make_simulation(Config.from_flat(**flags), dataset)
    assert piece in str(caught.value)
