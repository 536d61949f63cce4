"""The packed state: the form of a state in a checkpoint, the same for all devices and stores.

A packed state is {"server": ServerState, "clients": int32 [T], "private": leaves [T, ...]}, in
host memory: row r of a private leaf belongs to client clients[r]. A client without a row has its
initial one. Private leaves may be left out, see `remaking.py` and `drawn.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.simulation.state import InitialState
from fedvlr_jax.types import PyTree

# The item rows among a client's private rows, the only ones with a row for every item.
ROWS = "items"


def packed_shapes(
    initial: InitialState,
    leaves: Mapping[str, Sequence[Any]],
    name: str,
    row_type: Callable[..., Any] = jax.ShapeDtypeStruct,
) -> PyTree:
    """Shapes and dtypes of the packed state `name` of a checkpoint.

    Args:
      leaves: {leaf name: (shape, dtype)}, as a checkpoint's meta lists them.
      name: of the state in the checkpoint, such as "state" or "best".
      row_type: (shape, dtype) -> the placeholder of a leaf of private rows.

    Private leaves that the checkpoint does not hold are left out.
    """
    (num_clients,), _ = leaves[f"{name}.clients"]
    below = f"{name}.private."
    names = {full.removeprefix(below) for full in leaves if full.startswith(below)}
    shapes = trees.kept(initial.client_shapes, names)
    return {
        "server": initial.server_shapes,
        "clients": jax.ShapeDtypeStruct((num_clients,), np.int32),
        "private": jax.tree.map(
            lambda leaf: row_type((num_clients, *leaf.shape), leaf.dtype), shapes
        ),
    }
