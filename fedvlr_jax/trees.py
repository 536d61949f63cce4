"""Small helpers over pytrees whose leaves share a leading client axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.types import PyTree


def axpy(scale: float | jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """y + scale * x, leaf by leaf."""
    return jax.tree.map(lambda a, b: b + scale * a, x, y)


def per_client(flag: jax.Array, leaf: jax.Array) -> jax.Array:
    """[K] reshaped so that it broadcasts against a leaf [K, ...]."""
    return flag.reshape(flag.shape + (1,) * (leaf.ndim - flag.ndim))


def select(flag: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Row by row: `on_true` where flag [K] holds, the untouched bits of `on_false` elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(per_client(flag, a), a, b), on_true, on_false)


def squared_norms(tree: PyTree, num_clients: int) -> jax.Array:
    """float [K]: the squared L2 norm of each client's rows over all leaves."""
    total = jnp.zeros(num_clients)
    for leaf in jax.tree.leaves(tree):
        total = total + jnp.sum(jnp.square(leaf.reshape(num_clients, -1)), axis=1)
    return total


def weighted_sum(weight: jax.Array, tree: PyTree) -> PyTree:
    """sum_k weight[k] * leaf[k]."""
    return jax.tree.map(lambda leaf: jnp.tensordot(weight, leaf, axes=1), tree)


def finite(tree: PyTree) -> jax.Array:
    """bool []: whether every number of every leaf is finite."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(flags)) if flags else jnp.array(True)


def finite_rows(tree: PyTree, num_clients: int) -> jax.Array:
    """bool [K]: whether every number of each client's rows is finite."""
    flags = jnp.ones(num_clients, bool)
    for leaf in jax.tree.leaves(tree):
        flags &= jnp.all(jnp.isfinite(leaf.reshape(num_clients, -1)), axis=1)
    return flags


def num_bytes(tree: PyTree) -> int:
    """Bytes of all leaves (arrays or shape structs; typed keys count as nothing)."""
    return sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
