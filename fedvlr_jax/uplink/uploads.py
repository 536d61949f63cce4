"""The uploads of a cohort, in the form in which a plan has them.

A plan of local training does not return a sum. It returns an `Uploads`, which has one upload
for each client, and which the aggregation rule asks for sums, norms, inner products or slices.
What a rule may ask is a `Needs`; what a plan can answer is one too.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.types import PyTree

# Bytes of one block of items of all uploads, where uploads are built block by block.
BLOCK_BYTES = 1 << 26


class Needs(enum.IntEnum):
    """What a rule asks of a cohort's uploads. Each includes those before it.

    SUM: their sum, by weights that are known before training.
    NORMS: the joint L2 norm of each, before the sum.
    WHOLE: all uploads of the cohort at once: inner products, slices of coordinates, rows.
    """

    SUM = 0
    NORMS = 1
    WHOLE = 2


class Upload(NamedTuple):
    """The gradients of what was broadcast, or differences from it.

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
        return self.scale * jnp.sqrt(jnp.maximum(self.squared_norms(), 0.0))

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LowRankUploads(Uploads):
    """Uploads of rank A + 1: views_u = sum_a r_a (x) q_a + h (x) p, times `scale`.

    Attributes:
      residual: r [A, K, I]. query: q [A, K, G * d].
      positive: h [K, I], the history. pull: p [K, G * d].
      head: leaves [K, ...]. scale: [] or [K].
      views: (G, d). product: the einsum in the precision of the plan.
    """

    residual: jax.Array
    query: jax.Array
    positive: jax.Array
    pull: jax.Array
    head: PyTree
    scale: Any
    views: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    product: Callable[..., jax.Array] = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.positive.shape, *self.views)

    @property
    def rank(self) -> int:
        """A + 1, the number of factors of an upload."""
        return self.residual.shape[0] + 1

    def total(self, weight: jax.Array) -> Upload:
        weight = self.scale * weight
        views = self.product("aki,akg->ig", self.residual, weight[None, :, None] * self.query)
        views += self.product("ki,kg->ig", self.positive, weight[:, None] * self.pull)
        return Upload(views.reshape(self.shape[1:]), trees.weighted_sum(weight, self.head))

    def squared_norms(self) -> jax.Array:
        # Of a matrix of low rank, a trace of two Gram matrices.
        left, right = self._factors()
        gram = jnp.einsum("aki,bki->kab", left, left) * jnp.einsum("akg,bkg->kab", right, right)
        square = jnp.sum(gram, axis=(1, 2))
        return square + trees.squared_norms(self.head, len(square))

    def products(self) -> jax.Array:
        """As of `Uploads`: sum_ab <r_ua, r_vb> <q_ua, q_vb>, with no upload built."""
        return self.view_products() + head_products(self.scaled_head())

    def view_products(self) -> jax.Array:
        """`products` without the shared head."""
        # The terms (a, b) and (b, a) are transposes of each other: only a <= b are computed.
        first, second = np.triu_indices(self.rank)
        half = self._factor_products(self, first, second, np.where(first == second, 0.5, 1.0))
        return half + half.T

    def view_products_with(self, other: LowRankUploads) -> jax.Array:
        """[K, L]: as `view_products`, of each of these uploads and each of L others."""
        first, second = (np.ravel(index) for index in np.indices((self.rank, other.rank)))
        return self._factor_products(other, first, second, np.ones(len(first)))

    def _factor_products(
        self, other: LowRankUploads, first: np.ndarray, second: np.ndarray, weight: np.ndarray
    ) -> jax.Array:
        """[K, L]: the weighted sum over the pairs (first, second) of factors."""
        (left, right), (other_left, other_right) = self._factors(), other._factors()

        def term(total: jax.Array, pair: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            a, b, of_pair = pair
            products = left[a] @ other_left[b].T * (right[a] @ other_right[b].T)
            return total + of_pair * products, None

        clients, others = self.shape[0], other.shape[0]
        start = jnp.zeros((clients, others), left.dtype)
        pairs = jnp.asarray(first, jnp.int32), jnp.asarray(second, jnp.int32)
        total, _ = jax.lax.scan(term, start, (*pairs, jnp.asarray(weight, left.dtype)))
        rows, columns = (
            jnp.broadcast_to(of.scale, (count,)) for of, count in ((self, clients), (other, others))
        )
        return rows[:, None] * columns[None, :] * total

    def block(self, start: jax.Array, size: int) -> jax.Array:
        cut = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size, axis=leaf.ndim - 1)
        rows = jnp.einsum("aki,akg->kig", cut(self.residual), self.query)
        rows += jnp.einsum("ki,kg->kig", cut(self.positive), self.pull)
        rows = rows.reshape(*rows.shape[:2], *self.views)
        return trees.per_client(jnp.broadcast_to(self.scale, rows.shape[:1]), rows) * rows

    def client_axes(self) -> Uploads:
        return self._with_axes(residual=1, query=1, positive=0, pull=0)

    def _factors(self) -> tuple[jax.Array, jax.Array]:
        left = jnp.concatenate([self.residual, self.positive[None]])
        return left, jnp.concatenate([self.query, self.pull[None]])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotUploads(Uploads):
    """Uploads as the rows that each client touched.

    Attributes:
      item: int32 [K, M], the item of each row, each once; I in padding.
      rows_of_views: [K, M, G, d]. head: leaves [K, ...]. scale: [] or [K].
      num_items: I. whole: whether row i is item i, for every client.
    """

    item: jax.Array
    rows_of_views: jax.Array
    head: PyTree
    scale: Any
    num_items: int = dataclasses.field(metadata={"static": True})
    whole: bool = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        clients, _, *rest = self.rows_of_views.shape
        return (clients, self.num_items, *rest)

    def total(self, weight: jax.Array) -> Upload:
        weight = self.scale * weight
        if self.whole:
            views = trees.weighted_sum(weight, self.rows_of_views)
        else:
            views = jnp.zeros(self.shape[1:], self.rows_of_views.dtype)
            weighted = trees.per_client(weight, self.rows_of_views) * self.rows_of_views
            views = views.at[self.item].add(weighted, mode="drop")
        return Upload(views, trees.weighted_sum(weight, self.head))

    def squared_norms(self) -> jax.Array:
        return trees.squared_norms((self.rows_of_views, self.head), self.shape[0])

    def block(self, start: jax.Array, size: int) -> jax.Array:
        clients, _, *rest = self.shape
        place = self.item - start
        place = jnp.where((place >= 0) & (place < size), place, size)
        rows = jnp.zeros((clients, size, *rest), self.rows_of_views.dtype)
        client = jnp.arange(clients)[:, None]
        rows = rows.at[client, place].set(self.rows_of_views, mode="drop")
        return trees.per_client(jnp.broadcast_to(self.scale, (clients,)), rows) * rows

    def client_axes(self) -> Uploads:
        return self._with_axes(item=0, rows_of_views=0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinedUploads(Uploads):
    """The uploads of several groups of clients, one after the other."""

    parts: tuple[Uploads, ...]

    @classmethod
    def of(cls, parts: Sequence[Uploads]) -> Uploads:
        """The uploads of all parts; of one part, that part itself."""
        return parts[0] if len(parts) == 1 else cls(parts=tuple(parts))

    @property
    def scale(self) -> jax.Array:
        of = lambda part: jnp.broadcast_to(part.scale, part.shape[:1])
        return jnp.concatenate([of(part) for part in self.parts])

    @property
    def head(self) -> PyTree:
        join = lambda *leaves: jnp.concatenate(leaves)
        return jax.tree.map(join, *[part.head for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    def total(self, weight: jax.Array) -> Upload:
        uploads = [part.total(w) for part, w in zip(self.parts, self._cut(weight), strict=True)]
        return jax.tree.map(lambda *leaves: sum(leaves), *uploads)

    def squared_norms(self) -> jax.Array:
        return jnp.concatenate([part.squared_norms() for part in self.parts])

    def products(self) -> jax.Array:
        parts = [part for part in self.parts if isinstance(part, LowRankUploads)]
        if len(parts) < len(self.parts):
            return super().products()
        rows: list[list[jax.Array]] = []
        for i, part in enumerate(parts):
            before = [rows[j][i].T for j in range(i)]
            after = [part.view_products_with(other) for other in parts[i + 1 :]]
            rows.append([*before, part.view_products(), *after])
        return jnp.block(rows) + head_products(self.scaled_head())

    def block(self, start: jax.Array, size: int) -> jax.Array:
        return jnp.concatenate([part.block(start, size) for part in self.parts])

    def scaled(self, factor: jax.Array) -> Uploads:
        pairs = zip(self.parts, self._cut(factor), strict=True)
        return JoinedUploads(parts=tuple(part.scaled(f) for part, f in pairs))

    def masked(self, kept: jax.Array) -> Uploads:
        pairs = zip(self.parts, self._cut(kept), strict=True)
        return JoinedUploads(parts=tuple(part.masked(own) for part, own in pairs))

    def client_axes(self) -> Uploads:
        return JoinedUploads(parts=tuple(part.client_axes() for part in self.parts))

    def _cut(self, values: jax.Array) -> list[jax.Array]:
        ends, at = [], 0
        for part in self.parts:
            ends.append(values[at : at + part.shape[0]])
            at += part.shape[0]
        return ends
