"""Uploads of which some are replaced by forged ones, without building any of them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink.uploads import Upload, Uploads


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class AlteredUploads(Uploads):
    """upload_u = scale_u (keep_u honest_u + share_u forged).

    Attributes:
      honest: the uploads that the clients trained.
      keep: [K], 1 for a client that sends its trained upload.
      forged: one upload without a client axis, views [I, G, d].
      share: [K], how much of `forged` the client sends.
      scale: [K].
    """

    honest: Uploads
    keep: jax.Array
    forged: Upload
    share: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.honest.shape

    @property
    def head(self) -> PyTree:
        part = lambda own, forged: (
            trees.per_client(self.keep, own) * own
            + trees.per_client(self.share, own) * forged[None]
        )
        return jax.tree.map(part, self.honest.scaled_head(), self.forged.head)

    def total(self, weight: jax.Array) -> Upload:
        weight = self.scale * weight
        forged = jnp.sum(weight * self.share)
        own = self.honest.total(weight * self.keep)
        return jax.tree.map(lambda a, b: a + forged * b, own, self.forged)

    def _crossed(self) -> jax.Array:
        """[K]: the inner product of each honest upload and the forged one."""
        return self.honest.inner(self.forged)

    def squared_norms(self) -> jax.Array:
        # The forged upload may not be finite; it must not reach the norms of the honest ones.
        only_forged = lambda values: jnp.where(self.share != 0, values, 0.0)
        own = jnp.square(self.honest.norms())
        crossed = only_forged(2 * self.keep * self.share * self._crossed())
        forged = only_forged(jnp.square(self.share) * self._forged())
        return jnp.square(self.keep) * own + crossed + forged

    def products(self) -> jax.Array:
        outer = lambda left, right: left[:, None] * right[None, :]
        crossed = outer(self.keep * self._crossed(), self.share)
        total = outer(self.keep, self.keep) * self.honest.products() + crossed + crossed.T
        total += outer(self.share, self.share) * self._forged()
        return outer(self.scale, self.scale) * total

    def block(self, start: jax.Array, size: int) -> jax.Array:
        rows = self.honest.block(start, size)
        forged = jax.lax.dynamic_slice_in_dim(self.forged.views, start, size)[None]
        rows = trees.per_client(self.keep, rows) * rows
        rows += trees.per_client(self.share, rows) * forged
        return trees.per_client(self.scale, rows) * rows

    def client_axes(self) -> Uploads:
        raise NotImplementedError("forged uploads are made when the cohort is whole")

    def masked(self, kept: jax.Array) -> Uploads:
        zero = lambda values: jnp.where(kept, values, 0.0)
        share = zero(self.share)
        # A share of 0 would leave a number that is not finite as it is.
        sent = jnp.any(share != 0)
        return dataclasses.replace(
            self,
            honest=self.honest.masked(kept),
            keep=zero(self.keep),
            forged=jax.tree.map(lambda x: jnp.where(sent, x, jnp.zeros_like(x)), self.forged),
            share=share,
        )

    def _forged(self) -> jax.Array:
        """[]: the squared norm of the forged upload."""
        leaves = jax.tree.leaves(self.forged)
        return sum((jnp.sum(jnp.square(leaf)) for leaf in leaves), jnp.zeros(()))
