"""The work of a client in a round: the sizes of its transfers, and the rows that it trains on."""

from __future__ import annotations

import jax
import numpy as np

from fedvlr_jax.federated.gathered import num_slots
from fedvlr_jax.fleet import Hardware, make_hardware, round_bytes
from fedvlr_jax.fleet.participation import Work
from fedvlr_jax.fleet.transfer import Shape
from fedvlr_jax.settings import key_of, shapes_of
from fedvlr_jax.simulation.setup import Setup


def views_shape(setup: Setup) -> tuple[int, int, int]:
    """(I, G, d) of the broadcast views."""
    model = setup.model
    return model.num_items, len(model.fusion.names), model.width


def broadcast_shape(setup: Setup) -> Shape:
    """The size of the server's broadcast."""
    head = shapes_of(setup.model.init_shared, key_of(0))["head"]
    items, views, width = views_shape(setup)
    return Shape(items, views * width, sum(leaf.size for leaf in jax.tree.leaves(head)))


def upload_shape(setup: Setup) -> Shape:
    """The size of an upload: that of the broadcast, or with --upload_rank numbers a row."""
    shape = broadcast_shape(setup)
    return shape._replace(row=setup.config.fleet.upload_rank or shape.row)


def touched_rows(setup: Setup) -> np.ndarray:
    """int64 [N]: the rows of each client's upload that may not be zero.

    An upper bound: repeated draws of a negative count each time. Noise is on every row.
    """
    dataset = setup.dataset
    if setup.config.privacy.noise_multiplier:
        return np.full(dataset.num_users, setup.model.num_items)
    lengths, place = np.unique(dataset.train.counts, return_inverse=True)
    return np.array([num_slots(setup.task, int(length)) for length in lengths])[place]


def hardware_of(setup: Setup) -> Hardware:
    """The clients' devices."""
    correlation = setup.config.fleet.speed_activity_correlation
    return make_hardware(setup.dataset.train.counts, correlation)


def work_of(setup: Setup) -> Work:
    """The bytes and the rows of each client in one round."""
    federation, shape = setup.config.federation, broadcast_shape(setup)
    rows = setup.dataset.train.counts * (1 + federation.num_negatives)
    bytes_up = round_bytes(
        upload_shape(setup), touched_rows(setup), setup.config.fleet.upload_format
    )
    return Work(
        bytes_down=float(round_bytes(shape, shape.items, "dense")),
        bytes_up=bytes_up.astype(float),
        rows=rows * federation.local_epochs,
    )
