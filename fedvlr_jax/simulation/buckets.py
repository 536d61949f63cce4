"""Users and buckets: `buckets` are int64 [n_b] each, together every user index once."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.types import PyTree


def place_of(buckets: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(bucket, row in the bucket) of every user, int32 [N] each."""
    bucket, row = np.empty((2, sum(map(len, buckets))), np.int32)
    for number, users in enumerate(buckets):
        bucket[users], row[users] = number, np.arange(len(users))
    return bucket, row


def in_user_order(buckets: Sequence[np.ndarray], rows: Sequence[PyTree]) -> PyTree:
    """The rows of all buckets, leaves [N, ...] by user.

    Args:
      rows: per bucket a pytree of host arrays, leaves [at least n_b, ...]; more rows are padding.
    """
    if len(buckets) == 1:
        return trees.rows(rows[0], slice(len(buckets[0])))
    order = np.argsort(np.concatenate(buckets))
    real = [
        trees.rows(bucket_rows, slice(len(users)))
        for users, bucket_rows in zip(buckets, rows, strict=True)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *real)
