"""The work of a client in a round, and the time that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.fleet.hardware import Hardware

# (seed, clients [K], round of the broadcast that they train on) -> their local epochs [K]
LocalEpochs = Callable[[int, np.ndarray, int], np.ndarray]


def one_epoch(seed: int, clients: np.ndarray, version: int) -> np.ndarray:
    """The `LocalEpochs` of clients that all train one epoch."""
    return np.ones(len(clients))


class Work(NamedTuple):
    """The work of each client in a round.

    Attributes:
      bytes_down: of the broadcast to each client [N].
      bytes_up: of each client's upload, and of its request for rows [N].
      rows: of each client's loss, in one local epoch [N].
      local_epochs: the number of local epochs of each client in a round.
    """

    bytes_down: np.ndarray
    bytes_up: np.ndarray
    rows: np.ndarray
    local_epochs: LocalEpochs = one_epoch


def duration_s(
    hardware: Hardware, work: Work, seed: int, clients: np.ndarray, number: int, version: int
) -> np.ndarray:
    """[K]: seconds from the broadcast to the arrival of the upload.

    Args:
      number: of the draw of the transfer speeds. version: the round of the broadcast.
    """
    down, up = hardware.bytes_a_second(seed, clients, number)
    rows = work.rows[clients] * work.local_epochs(seed, clients, version)
    compute = rows * hardware.sample_s(seed, clients)
    return work.bytes_down[clients] / down + compute + work.bytes_up[clients] / up
