"""The result of a chunk of clients after the uplink, and the join of chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.local import Broadcast, LocalInput
from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink import Upload, Uploads


class Trained(NamedTuple):
    """Some clients after their local epochs.

    Attributes:
      private: as in `local.LocalResult`.
      upload: the sum of their weighted uploads; or, for a rule that needs all of them at
        once, an `Uploads`, each times its factor.
      loss: float32 [K], each client's loss in its first epoch (0 where absent).
      clipped: bool [K], whether the uplink shortened the upload.
      bad_leaf: as in `local.LocalResult`.
    """

    private: PyTree
    upload: Any
    loss: jax.Array
    clipped: jax.Array
    bad_leaf: jax.Array


# (broadcast, clients, key) -> Trained
TrainCohort = Callable[[Broadcast, LocalInput, jax.Array], Trained]


def client_axes(trained: Trained) -> Trained:
    """The client axis of each leaf, in its place; -1 for a sum, which has none."""
    upload = trained.upload
    axes = upload.client_axes() if isinstance(upload, Uploads) else jax.tree.map(_none, upload)
    return jax.tree.map(lambda leaf: 0, trained._replace(upload=()))._replace(upload=axes)


def _none(leaf: Any) -> int:
    return -1


def join_chunks(results: Trained, num_clients: int, total: Upload) -> Trained:
    """Chunks that `lax.scan` stacked, as one: leaves [C, ..., k, ...] -> [..., num_clients, ...].

    Args:
      results: `upload` is () where the chunks gave sums; these are in `total`.
    """

    def merge(leaf: jax.Array, axis: int) -> jax.Array:
        leaf = jnp.moveaxis(leaf, 0, axis)
        shape = (*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])
        return jax.lax.slice_in_dim(leaf.reshape(shape), 0, num_clients, axis=axis)

    whole = jax.tree.map(merge, results, client_axes(results))
    return whole if isinstance(whole.upload, Uploads) else whole._replace(upload=total)
