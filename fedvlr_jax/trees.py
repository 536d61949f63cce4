"""Small helpers over pytrees whose leaves share a leading client axis."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.types import PyTree


def axpy(scale: float | jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """y + scale * x, leaf by leaf."""
    return jax.tree.map(lambda a, b: b + scale * a, x, y)


def per_client(flag: jax.Array, leaf: jax.Array) -> jax.Array:
    """`flag` [K], or [], reshaped so that it broadcasts against a leaf [K, ...]."""
    return flag.reshape(flag.shape + (1,) * (leaf.ndim - flag.ndim))


def rows(tree: PyTree, index: Any) -> PyTree:
    """leaf[index] of each leaf [K, ...]; `index` as NumPy takes one."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def select(flag: jax.Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """`on_true` where `flag` is True, else the unchanged bits of `on_false`.

    Args:
      flag: bool [K] for each row, or [] for all.
      on_true, on_false: leaves [K, ...].
    """
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


def bad_leaf(tree: PyTree) -> jax.Array:
    """int32 []: the number of the first leaf that is not all finite; -1 without one."""
    return bad_leaf_of_rows(jax.tree.map(lambda leaf: leaf[None], tree), 1)[0]


def bad_leaf_of_rows(tree: PyTree, num_clients: int) -> jax.Array:
    """int32 [K]: for each client, the first leaf [K, ...] with a row that is not finite, or -1."""
    bad = jnp.full(num_clients, -1, jnp.int32)
    for place, leaf in reversed(list(enumerate(jax.tree.leaves(tree)))):
        # A sum is not finite if one of its terms is not; on a CPU this is far faster than a test of
        # each number. The factor 1e-30 prevents overflow in a sum of finite numbers.
        flat = leaf.reshape(num_clients, -1)
        finite = jnp.isfinite(flat @ jnp.full(flat.shape[1], 1e-30, flat.dtype))
        bad = jnp.where(finite, bad, place)
    return bad


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """{"server.shared.items": leaf, ...}: the leaves by their path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): x for path, x in leaves}


def path_name(path: tuple[Any, ...]) -> str:
    """ "server.shared.items", of a path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def kept(tree: PyTree, names: Collection[str], below: str = "") -> PyTree:
    """A tree of dicts with the leaves whose paths, as of `named_leaves`, are in `names`.

    Args:
      below: the path of `tree` itself.
    """
    found = {}
    for name, part in tree.items():
        path = f"{below}.{name}" if below else name
        if isinstance(part, Mapping):
            found[name] = kept(part, names, path)
        elif path in names:
            found[name] = part
    return found


def is_key(leaf: Any) -> bool:
    """Whether an array, or the shape of one, holds typed random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def num_bytes(tree: PyTree) -> int:
    """Bytes of all leaves (arrays or shape structs), without typed keys."""
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if not is_key(leaf)
    )
