"""Reading one checkpoint: the leaves that are wanted, and large ones by the block."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from fedvlr_jax.checkpointing.layout import PACKED, Block, layout_of, num_bytes
from fedvlr_jax.checkpointing.writing import STATE


class RowsLater(jax.ShapeDtypeStruct):
    """In `Checkpoints.load`: asks for a leaf [T, ...] as NumPy rows or as `SavedRows`."""


class SavedRows:
    """A leaf [T, ...] of a checkpoint whose rows are read when they are indexed.

    `rows[3:7]` or `rows[np.array([5, 2])]` is an array of these rows. Only the block that was read
    last is held in memory.
    """

    def __init__(
        self, kind: Sequence[Any], blocks: Sequence[Block], read: Callable[[Block], np.ndarray]
    ) -> None:
        self.shape, self.dtype = tuple(kind[0]), jnp.dtype(kind[1])
        self._blocks, self._read = blocks, read
        self._starts = np.array([block.start for block in blocks])
        self._held: tuple[Block, np.ndarray] | None = None

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.shape[0]))
        asked = np.asarray(rows)
        values = np.empty((len(asked), *self.shape[1:]), self.dtype)
        block_of = np.searchsorted(self._starts, asked, side="right") - 1
        for number in np.unique(block_of):
            block, here = self._blocks[number], block_of == number
            if self._held is None or self._held[0] != block:
                self._held = None
                self._held = block, self._read(block)
            values[here] = self._held[1][asked[here] - block.start]
        return values


def load_stored(
    step: Path, names: Sequence[str], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Orbax's part of a load: the `wanted` ones of all the `names` that it stored."""
    if not wanted:
        return {}
    abstract = {**dict.fromkeys(names, ocp.PLACEHOLDER), **wanted}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ocp.load(step / STATE, abstract)


class Reader:
    """The leaves of one checkpoint, which must be whole.

    Args:
      step: its directory. meta: its `meta.json`.
    """

    def __init__(self, step: Path, meta: Mapping[str, Any]) -> None:
        self._step, self._kinds, self._same_as = step, meta["leaves"], meta["same_as"]
        self._layout = layout_of(meta)
        self._here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def read(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The leaves `wanted`, on the devices that they name; no other large leaf is read.

        Args:
          wanted: {name: shape struct}; typed keys as their numbers.
        """
        source = {name: self._same_as.get(name, name) for name in wanted}
        loaded = self._load_whole(wanted, source)
        # Each leaf gets memory of its own: JAX may take it over as it is, and write to it once
        # the leaf is donated.
        leaves: dict[str, Any] = {}
        given: set[str] = set()
        for name, like in wanted.items():
            origin, later = source[name], isinstance(like, RowsLater)
            leaf: Any
            if origin in self._layout.offset:
                leaf = self._unpacked(loaded[PACKED], origin)
            elif self._layout.is_cut(origin) and later:
                leaf = self._rows(origin)
            else:
                leaf = loaded[origin].copy() if origin in given else loaded[origin]
                given.add(origin)
            if later:
                leaves[name] = leaf if isinstance(leaf, SavedRows) else np.asarray(leaf)
            else:
                leaves[name] = jax.device_put(leaf, self._place(like))
        return leaves

    def _place(self, like: Any) -> jax.sharding.Sharding:
        return getattr(like, "sharding", None) or self._here

    def _load(self, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
        return load_stored(self._step, self._layout.names, wanted)

    def _load_whole(self, wanted: Mapping[str, Any], source: Mapping[str, str]) -> dict[str, Any]:
        """The arrays that the leaves come from, blocks joined; without leaves read by the block."""
        layout, asked, joined = self._layout, {}, []
        for name, like in wanted.items():
            origin = source[name]
            if layout.is_cut(origin):
                if not isinstance(like, RowsLater):
                    joined.append(origin)
                    asked.update(
                        {b.name: self._like_block(origin, b) for b in layout.blocks[origin]}
                    )
            elif origin not in layout.offset:
                kind = self._kinds[name]
                asked[origin] = jax.ShapeDtypeStruct(*kind, sharding=self._place(like))
        if layout.offset.keys() & set(source.values()):
            asked[PACKED] = jax.ShapeDtypeStruct((layout.packed,), np.uint8, sharding=self._here)
        loaded = self._load(asked)
        for origin in dict.fromkeys(joined):
            shape, dtype = self._kinds[origin]
            whole = np.empty(shape, jnp.dtype(dtype))
            for block in layout.blocks[origin]:
                whole[block.start : block.stop] = loaded.pop(block.name)
            loaded[origin] = whole
        return loaded

    def _like_block(self, name: str, block: Block) -> jax.ShapeDtypeStruct:
        shape, dtype = self._kinds[name]
        rows = (block.stop - block.start, *shape[1:])
        return jax.ShapeDtypeStruct(rows, dtype, sharding=self._here)

    def _rows(self, name: str) -> SavedRows:
        def read(block: Block) -> np.ndarray:
            return np.asarray(self._load({block.name: self._like_block(name, block)})[block.name])

        return SavedRows(self._kinds[name], self._layout.blocks[name], read)

    def _unpacked(self, packed: jax.Array, name: str) -> np.ndarray:
        (shape, dtype), start = self._kinds[name], self._layout.offset[name]
        content = np.asarray(packed)[start : start + num_bytes(self._kinds[name])]
        return content.view(jnp.dtype(dtype)).reshape(shape).copy()
