"""The work of a client in a round: the sizes of its transfers, and the rows that it trains on."""

from __future__ import annotations

import functools

import jax
import numpy as np

from fedvlr_jax.config import FederationConfig, PrivacyConfig
from fedvlr_jax.federated.participation import local_epochs_of
from fedvlr_jax.federated.plans.slots import num_slots
from fedvlr_jax.fleet import Hardware, make_hardware, round_bytes
from fedvlr_jax.fleet.transfer import INDEX_BYTES, VALUE_BYTES, Shape
from fedvlr_jax.fleet.work import LocalEpochs, Work
from fedvlr_jax.privacy.secure_rounds import secure_cost
from fedvlr_jax.settings import compiled, key_of, shapes_of
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
    """The size of an upload: that of the broadcast, but for --upload_rank and --upload_bits."""
    shape, fleet = broadcast_shape(setup), setup.config.fleet
    return shape._replace(row=fleet.upload_rank or shape.row, bits=fleet.upload_bits or 32)


def touched_rows(setup: Setup) -> np.ndarray:
    """int64 [N]: the rows of each client's upload that may not be zero.

    An upper bound: repeated draws of a negative count each time. Noise of clients is on every row.
    With --upload_rows a client sends that many rows, because the residual has rows that it did not
    touch.
    """
    dataset = setup.population
    if rows := setup.config.fleet.upload_rows:
        return np.full(dataset.num_users, rows)
    if _noise_of_clients(setup.config.privacy):
        return np.full(dataset.num_users, setup.model.num_items)
    return _trained_rows(setup)


def _noise_of_clients(privacy: PrivacyConfig) -> bool:
    """Whether the clients add noise to their uploads; the server's noise is not sent."""
    by_flag = privacy.privacy == "none" and privacy.noise == "client"
    return privacy.noise_multiplier > 0 and (by_flag or privacy.privacy in ("local", "distributed"))


def _trained_rows(setup: Setup) -> np.ndarray:
    """int64 [N]: the rows of the views that each client trains on, repeated draws each time."""
    lengths, place = np.unique(setup.population.train.counts, return_inverse=True)
    return np.array([num_slots(setup.task, int(length)) for length in lengths])[place]


def download_bytes(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """(bytes of the broadcast to each client [N], bytes of its request for rows [N]).

    With --download_rows=touched a client asks for the rows of its history and of its draws, one
    number each, and gets them in this order. A repeated draw is asked for again, so the length of
    the request depends on that of the history alone. A client that would ask for as many rows as
    there are gets all of them, without a request. With --groups a client also gets the preference
    of its group for each row.
    """
    shape = broadcast_shape(setup)
    rows = np.full(setup.population.num_users, shape.items)
    if setup.config.fleet.download_rows == "touched":
        rows = _trained_rows(setup)
    down = rows * shape.row_bytes + VALUE_BYTES * shape.head
    if setup.config.groups.active:
        down = down + VALUE_BYTES * rows
    return down, np.where(rows < shape.items, INDEX_BYTES * rows, 0)


def hardware_of(setup: Setup) -> Hardware:
    """The clients' devices."""
    correlation = setup.config.fleet.speed_activity_correlation
    return make_hardware(setup.population.train.counts, correlation)


def work_of(setup: Setup) -> Work:
    """The bytes of each client in one round, its rows in an epoch, and its number of epochs.

    Expected negatives count as many rows as sampled ones, whose mean over all draws they are.
    """
    federation = setup.config.federation
    rows = setup.population.train.counts * (1 + federation.num_negatives)
    down, request = download_bytes(setup)
    up = round_bytes(upload_shape(setup), touched_rows(setup), setup.config.fleet.upload_format)
    up = up + request
    if federation.aggregation == "secure":
        _, cost = secure_cost(setup.config, len(up), upload_shape(setup))
        down, up = down + cost.down, np.full(len(up), cost.up)
    return Work(
        bytes_down=down.astype(float),
        bytes_up=up.astype(float),
        rows=rows,
        local_epochs=_local_epochs(federation),
    )


def _local_epochs(config: FederationConfig) -> LocalEpochs:
    """The numbers of epochs that the compiled round draws, to the clock."""
    if not config.min_local_epochs:
        return lambda seed, clients, version: np.full(len(clients), config.local_epochs)
    draw = compiled(functools.partial(local_epochs_of, config=config))

    def drawn(seed: int, clients: np.ndarray, version: int) -> np.ndarray:
        # Padded to a power of 2, so that few programs are compiled.
        padded = np.zeros(1 << max(len(clients) - 1, 0).bit_length(), np.int32)
        padded[: len(clients)] = clients
        return np.asarray(draw(key_of(seed), np.int32(version), padded))[: len(clients)]

    return drawn
