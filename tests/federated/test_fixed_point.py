"""The fixed-point sum of uploads, on a mesh of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.federated.devices import GROUPS, client_mesh, over_devices
from fedvlr_jax.federated.local import LocalInput
from fedvlr_jax.federated.trained import Trained
from fedvlr_jax.types import Cohort, Histories
from fedvlr_jax.uplink import Upload

CLIENTS, ITEMS = 4 * GROUPS, 50


def cohort():
    numbers = jnp.arange(CLIENTS, dtype=jnp.int32)
    return Cohort(
        histories=Histories(client=numbers, item=numbers[:, None], count=numbers),
        responded=jnp.ones(CLIENTS, bool),
        local_epochs=numbers,
        weight=jnp.ones(CLIENTS),
    )


def weighted_sum(values, broadcast, clients, key):
    cohort, alpha, private = clients
    own = alpha[:, None, None] * values[cohort.histories.client]
    loss = jnp.zeros(alpha.shape)
    upload = Upload(jnp.sum(own, axis=0), {"bias": jnp.sum(own[:, 0], axis=0)})
    return Trained(private, upload, loss, loss > 0, loss.astype(jnp.int32))


def test_a_sum_in_fixed_point_is_right_to_a_millionth_of_the_largest_entry():
    """The sums of eight groups are rounded to 2^-27 of the largest of them, and to float32."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(CLIENTS, ITEMS, 2)).astype(np.float32)
    alpha = rng.random(CLIENTS).astype(np.float32)
    for size in (1e-6, 1.0, 1e6):
        train = functools.partial(weighted_sum, jnp.asarray(size * values))
        run = over_devices(train, client_mesh(1, exact=True), exact=True)
        clients = LocalInput(cohort(), jnp.asarray(alpha), {"x": jnp.zeros(CLIENTS)})
        upload = run((), clients, jax.random.key(0)).upload
        expected = np.einsum("k,kid->id", alpha.astype(float), size * values.astype(float))
        for leaf, sums in ((upload.views, expected), (upload.head["bias"], expected[0])):
            np.testing.assert_allclose(leaf, sums, rtol=0, atol=1e-6 * np.abs(sums).max())
