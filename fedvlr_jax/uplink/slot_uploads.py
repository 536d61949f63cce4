"""The uploads of the gathered plan: the rows that a client touched."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink.uploads import Upload, Uploads


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
