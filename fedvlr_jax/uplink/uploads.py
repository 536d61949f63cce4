"""The uploads of a cohort, in the form in which a plan has them.

A plan of local training does not return a sum. It returns an `Uploads`, which has one upload
for each client. The aggregation rule computes sums, norms, inner products or slices of it. `Needs`
says which of these a rule uses, and which a plan supports.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.types import PyTree

# Bytes of one block of items of all uploads, where uploads are built block by block.
BLOCK_BYTES = 1 << 26


class Needs(enum.IntEnum):
    """The operations on a cohort's uploads that a rule uses. Each includes those before it.

    SUM: their sum, by weights that are known before training.
    NORMS: the joint L2 norm of each, before the sum.
    WHOLE: all uploads of the cohort at once: inner products, slices of coordinates, rows.
    """

    SUM = 0
    NORMS = 1
    WHOLE = 2


class Upload(NamedTuple):
    """The gradients by the broadcast arrays, or the differences from them.

    Attributes:
      views: float32 [I, G, d]. head: as the shared head.
    """

    views: jax.Array
    head: PyTree


class Uploads(abc.ABC):
    """The uploads of K clients. Subclasses are registered pytrees of arrays.

    A subclass has `scale`, float [] or [K], a factor of each client's upload, and gives
    `total`, `squared_norms`, `block` and `client_axes`; the rest is built on these.
    """

    scale: Any
    head: PyTree

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(K, I, G, d)."""

    @abc.abstractmethod
    def total(self, weight: jax.Array) -> Upload:
        """sum_u weight_u upload_u, for weight [K]."""

    @abc.abstractmethod
    def squared_norms(self) -> jax.Array:
        """[K]: the squared joint L2 norms, before `scale`."""

    @abc.abstractmethod
    def block(self, start: jax.Array, size: int) -> jax.Array:
        """[K, size, G, d]: the rows of `size` items from `start` on, of each client's views."""

    @abc.abstractmethod
    def client_axes(self) -> Uploads:
        """The same pytree with the client axis of each leaf in its place."""

    def first(self, count: int) -> Uploads:
        """The uploads of the first `count` clients, or of all where there are fewer."""
        count = min(count, self.shape[0])
        cut = lambda leaf, axis: jax.lax.slice_in_dim(leaf, 0, count, axis=axis)
        return jax.tree.map(cut, self, self.client_axes())

    def norms(self) -> jax.Array:
        """[K]: the joint L2 norm of each upload, over the views and the shared head."""
        return jnp.abs(self.scale) * jnp.sqrt(jnp.maximum(self.squared_norms(), 0.0))

    def scaled(self, factor: jax.Array) -> Uploads:
        """The uploads, each times its factor [K]."""
        scale = jnp.broadcast_to(self.scale, factor.shape)
        return dataclasses.replace(self, scale=scale * factor)  # type: ignore[type-var]

    def products(self) -> jax.Array:
        """[K, K]: the inner products of all pairs, over the views and the shared head."""
        clients = self.shape[0]

        def step(total: jax.Array, rows: jax.Array) -> tuple[jax.Array, None]:
            flat = rows.reshape(clients, -1)
            return total + flat @ flat.T, None

        start = jnp.zeros((clients, clients))
        total, _ = self._over_blocks(step, start)
        return total + head_products(self.scaled_head())

    def inner(self, other: Upload) -> jax.Array:
        """[K]: the inner product of each upload and `other`, over the views and the head."""
        clients = self.shape[0]

        def step(carry: tuple[Any, ...], rows: jax.Array) -> tuple[tuple[Any, ...], None]:
            total, start = carry
            place = start + jnp.arange(rows.shape[1])
            part = other.views.at[place].get(mode="fill", fill_value=0)
            total += jnp.einsum("kigd,igd->k", rows, part)
            return (total, start + rows.shape[1]), None

        begin = jnp.zeros(clients, other.views.dtype), jnp.zeros((), jnp.int32)
        (total, _), _ = self._over_blocks(step, begin)
        leaves = zip(jax.tree.leaves(self.scaled_head()), jax.tree.leaves(other.head), strict=True)
        for own, part in leaves:
            total += own.reshape(clients, -1) @ part.reshape(-1)
        return total

    def masked(self, kept: jax.Array) -> Uploads:
        """The uploads, with zeros in those of clients outside `kept`, bool [K].

        A factor of 0 would not do: it leaves a number that is not finite as it is.
        """

        def zero(leaf: jax.Array, axis: int) -> jax.Array:
            shape = [1] * leaf.ndim
            shape[axis] = kept.shape[0]
            return jnp.where(kept.reshape(shape), leaf, jnp.zeros((), leaf.dtype))

        return jax.tree.map(zero, self, self.client_axes())

    def rowwise(
        self,
        of_items: Callable[[jax.Array], jax.Array],
        of_leaf: Callable[[jax.Array], jax.Array],
    ) -> Upload:
        """One upload out of all, item by item.

        Args:
          of_items: maps [K, B, C], the rows of B items with C coordinates each, to [B, C].
          of_leaf: maps [K, C], a leaf of the shared head, to [C].
        """

        def step(carry: None, rows: jax.Array) -> tuple[None, jax.Array]:
            flat = rows.reshape(*rows.shape[:2], -1)
            return None, of_items(flat).reshape(rows.shape[1:])

        _, blocks = self._over_blocks(step, None)
        _, items, *rest = self.shape
        one = lambda leaf: of_leaf(leaf.reshape(leaf.shape[0], -1)).reshape(leaf.shape[1:])
        views = blocks.reshape(-1, *rest)[:items]
        return Upload(views, jax.tree.map(one, self.scaled_head()))

    def coordinatewise(self, combine: Callable[[jax.Array], jax.Array]) -> Upload:
        """One upload out of all: `combine` maps [K, B] to [B], for coordinates of any slice."""
        flat = lambda rows: combine(rows.reshape(rows.shape[0], -1)).reshape(rows.shape[1:])
        return self.rowwise(flat, combine)

    def fold_rows(
        self, step: Callable[[Any, jax.Array], tuple[Any, jax.Array]], carry: Any
    ) -> tuple[Any, Upload]:
        """(the last carry, one upload out of all), block by block.

        `step(carry, rows)` maps rows [K, ...], some items of all views or a leaf of the shared
        head, to (carry, [...]).
        """
        carry, blocks = self._over_blocks(step, carry)
        _, items, *rest = self.shape
        leaves, structure = jax.tree.flatten(self.scaled_head())
        head = []
        for leaf in leaves:
            carry, one = step(carry, leaf)
            head.append(one)
        views = blocks.reshape(-1, *rest)[:items]
        return carry, Upload(views, jax.tree.unflatten(structure, head))

    def rows(self) -> Upload:
        """Every upload as arrays: views [K, I, G, d] and head leaves [K, ...]."""
        return Upload(self.block(jnp.zeros((), jnp.int32), self.shape[1]), self.scaled_head())

    def scaled_head(self) -> PyTree:
        """The parts of the shared head [K, ...], times `scale`."""
        clients = self.shape[0]
        scale = jnp.broadcast_to(self.scale, (clients,))
        return jax.tree.map(lambda leaf: trees.per_client(scale, leaf) * leaf, self.head)

    def _with_axes(self, **axes: Any) -> Uploads:
        head = jax.tree.map(lambda leaf: 0, self.head)
        return dataclasses.replace(self, head=head, scale=0, **axes)  # type: ignore[type-var]

    def _over_blocks(self, step: Callable[..., Any], carry: Any) -> tuple[Any, jax.Array]:
        """Scans `step(carry, rows [K, B, G, d])` over the items; rows beyond the last are 0."""
        clients, items, *rest = self.shape
        row_bytes = 4 * clients
        for size in rest:
            row_bytes *= size
        size = max(1, min(items, BLOCK_BYTES // max(row_bytes, 1)))

        def one(carry: Any, start: jax.Array) -> tuple[Any, Any]:
            # The last block may reach beyond the catalogue: it is read further left and moved.
            begin = jnp.minimum(start, items - size)
            rows = self.block(begin, size)
            shift = start - begin
            place = jnp.arange(size)
            rows = jnp.take(rows, jnp.minimum(place + shift, size - 1), axis=1)
            inside = (place + shift < size)[None, :, None, None]
            return step(carry, jnp.where(inside, rows, 0.0))

        return jax.lax.scan(one, carry, jnp.arange(0, items, size))


def head_products(head: PyTree) -> jax.Array | float:
    """[K, K]: the inner products of all pairs over the shared head's leaves [K, ...]."""
    flat = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(head)]
    return sum((leaf @ leaf.T for leaf in flat), 0.0)
