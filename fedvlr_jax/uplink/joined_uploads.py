"""The uploads of several groups of clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink.low_rank_uploads import LowRankUploads
from fedvlr_jax.uplink.uploads import Upload, Uploads, head_products


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
