"""The uploads of the dense plan: a few factors per client."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink.uploads import Upload, Uploads, head_products


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
