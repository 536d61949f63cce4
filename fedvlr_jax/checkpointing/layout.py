"""How the leaves of a checkpoint are stored: small ones packed into one, large ones in blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.trees import is_key

# An array costs orbax about 1 ms, whatever its size, and a state has a hundred small ones. Leaves
# of at most this many bytes are stored as one array, one after the other in the order of "leaves".
SMALL_BYTES = 1 << 20
PACKED = "packed"
# A larger leaf is stored in blocks of rows, so that neither writing nor reading it needs all of it
# in memory: see `SavedRows`.
BLOCK_BYTES = 1 << 26


def plain(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves, or shape structs, as they are stored: typed keys as their numbers."""
    shapes = lambda leaf: jax.eval_shape(jax.random.key_data, leaf)
    return {name: shapes(leaf) if is_key(leaf) else leaf for name, leaf in leaves.items()}


def kinds(leaves: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{name: [shape, dtype]}, as JSON."""
    return {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in leaves.items()}


def num_bytes(kind: Sequence[Any]) -> int:
    """Bytes of a leaf of this [shape, dtype]."""
    shape, dtype = kind
    return math.prod(shape) * jnp.dtype(dtype).itemsize


class Block(NamedTuple):
    """The rows start to stop of a leaf, and the name that they are stored under."""

    name: str
    start: int
    stop: int


def blocks_of(name: str, kind: Sequence[Any], most: float) -> list[Block]:
    """The blocks of a leaf that is not packed.

    A leaf of more than `most` bytes is cut into as many rows as `most` bytes hold, at least one.
    """
    shape, size = kind[0], num_bytes(kind)
    if size <= most or not shape:
        return [Block(name, 0, shape[0] if shape else 1)]
    rows = max(1, int(most // (size // shape[0])))
    starts = range(0, shape[0], rows)
    return [Block(f"{name}@{start}", start, min(start + rows, shape[0])) for start in starts]


class Layout(NamedTuple):
    """The places of the leaves of a checkpoint, without those that are the same as another.

    Attributes:
      offset: where each small leaf begins in the packed bytes.
      packed: the number of packed bytes.
      blocks: of each other leaf.
    """

    offset: dict[str, int]
    packed: int
    blocks: dict[str, list[Block]]

    @property
    def names(self) -> list[str]:
        """The names of all arrays that orbax stored."""
        cut = [block.name for blocks in self.blocks.values() for block in blocks]
        return [*cut, PACKED] if self.offset else cut

    def is_cut(self, name: str) -> bool:
        """Whether a leaf is stored in more than one block, or under another name."""
        return name in self.blocks and self.blocks[name][0].name != name


def layout_of(meta: Mapping[str, Any]) -> Layout:
    """The layout of the checkpoint with this `meta.json`."""
    sizes = {n: num_bytes(k) for n, k in meta["leaves"].items() if n not in meta["same_as"]}
    offset, packed = {}, 0
    for name, size in sizes.items():
        if size <= meta["small_bytes"]:
            offset[name] = packed
            packed += size
    # Before schema 4 nothing was cut.
    most = meta.get("block_bytes", math.inf)
    blocks = {n: blocks_of(n, meta["leaves"][n], most) for n in sizes if n not in offset}
    return Layout(offset, packed, blocks)
