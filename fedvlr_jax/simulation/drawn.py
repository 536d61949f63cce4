"""Large private leaves in a checkpoint: without the numbers that training has not moved.

A client draws its router, head and item rows from (seed, client). The numbers that still have the
drawn bits are left out, and a load draws them again. These are all numbers of a client that never
took part, of a leaf that is not trained, and of the hidden units of a router that never respond.

A stored leaf is {"mask": uint8 [T, ceil(size / 8)], one bit a number, 1 where it has moved, or
[T, 0] if none has; "numbers" [C], those that have, in order; "witness" [1, ...], the drawn row of
the first client}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.checkpointing import RowsLater
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.store import ROWS_AT_ONCE, in_parts
from fedvlr_jax.simulation.state import InitialState
from fedvlr_jax.types import PyTree

# The place of these leaves in a packed state.
DRAWN = "drawn"
# Smaller leaves are stored as they are, and so are leaves of which a larger share has moved.
LEAST_BYTES, MOST_MOVED = 1 << 20, 0.9
# Drawn numbers of another machine may differ in their last bits.
RELATIVE, ABSOLUTE = 1e-4, 1e-6

# Places of clients in a packed state -> their rows, as drawn.
Draw = Callable[[np.ndarray], np.ndarray]


def _draw(initial: InitialState, packed: PyTree, name: str) -> Draw:
    key, clients = packed["server"].key, np.asarray(packed["clients"])

    def draw(places: np.ndarray) -> np.ndarray:
        # Always as many clients, so that one program draws all of them, with the same bits.
        parts = [np.resize(part, ROWS_AT_ONCE) for part in in_parts(clients[places])]
        rows = [np.asarray(initial.draw_leaf(key, part, name)) for part in parts]
        sizes = [len(part) for part in in_parts(places)]
        return np.concatenate([row[:size] for row, size in zip(rows, sizes, strict=True)])

    return draw


def _bits(rows: np.ndarray) -> np.ndarray:
    """The bits of rows [K, ...], unsigned integers [K, size]."""
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(f"u{rows.dtype.itemsize}")


def _moved(leaf: np.ndarray, draw: Draw, places: np.ndarray) -> np.ndarray:
    """bool [K, size], the numbers that training has moved."""
    return _bits(leaf[places]) != _bits(draw(places))


def leave_out(initial: InitialState, packed: PyTree) -> PyTree:
    """`packed` without the drawn numbers of its large leaves. It takes over its arrays."""
    private, stored = trees.named_leaves(packed["private"]), {}
    for name, leaf in private.items():
        # Rows in files are not read again for a save.
        if leaf.nbytes < LEAST_BYTES or isinstance(leaf, np.memmap):
            continue
        draw = _draw(initial, packed, name)
        some = np.unique(np.linspace(0, len(leaf) - 1, ROWS_AT_ONCE).astype(int))
        if _moved(leaf, draw, some).mean() <= MOST_MOVED:
            stored[name] = _stored(leaf, draw)
    if not stored:
        return packed
    rest = trees.kept(packed["private"], private.keys() - stored.keys())
    return {**packed, "private": rest, DRAWN: stored}


def _stored(leaf: np.ndarray, draw: Draw) -> dict[str, np.ndarray]:
    size = leaf.size // len(leaf)
    mask = np.empty((len(leaf), -(-size // 8)), np.uint8)
    # An array of this save is compacted in place: writing never overtakes reading.
    own = leaf.flags.owndata and leaf.flags.writeable and leaf.flags.c_contiguous
    numbers = leaf if own else np.empty(leaf.shape, leaf.dtype)
    end = 0
    for part in in_parts(np.arange(len(leaf))):
        moved = _moved(leaf, draw, part)
        mask[part] = np.packbits(moved, axis=1)
        values = leaf[part].reshape(len(part), size)[moved]
        numbers.reshape(-1)[end : end + len(values)] = values
        end += len(values)
    numbers.resize(end, refcheck=False)
    return {
        "mask": mask if end else mask[:, :0],
        "numbers": numbers,
        "witness": draw(np.zeros(1, int)),
    }


class DrawnRows:
    """A stored leaf [T, ...], whose rows are made when they are indexed."""

    def __init__(self, stored: Mapping[str, Any], draw: Draw) -> None:
        self._mask, self._numbers, self._draw = stored["mask"], stored["numbers"], draw
        count = lambda part: np.unpackbits(self._mask[part], axis=1).sum(axis=1, dtype=np.int64)
        counts = [count(part) for part in in_parts(np.arange(self._mask.shape[0]))]
        self._ends = np.concatenate(counts).cumsum()

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        rows = np.array(self._draw(places))
        if not self._mask.shape[1]:
            return rows
        flat = rows.reshape(len(places), -1)
        moved = np.unpackbits(self._mask[places], axis=1, count=flat.shape[1]).astype(bool)
        starts = self._ends[places] - moved.sum(axis=1)
        values = [self._numbers[a:b] for a, b in zip(starts, self._ends[places], strict=True)]
        flat[moved] = np.concatenate(values)
        return rows


def shapes(leaves: Mapping[str, Sequence[Any]], name: str) -> PyTree:
    """The shapes of the stored leaves of the packed state `name`, by leaf; {} without any.

    Args:
      leaves: {leaf name: (shape, dtype)}, as a checkpoint's meta lists them.
    """
    found: dict[str, dict[str, jax.ShapeDtypeStruct]] = {}
    for full, kind in leaves.items():
        if full.startswith(f"{name}.{DRAWN}."):
            leaf, part = full.removeprefix(f"{name}.{DRAWN}.").rsplit(".", 1)
            found.setdefault(leaf, {})[part] = RowsLater(*kind)
    return found


def put_back(initial: InitialState, packed: PyTree) -> PyTree:
    """`packed`, as `leave_out` was given it; the leaves are `DrawnRows`.

    Raises:
      InputError: this machine or this version draws other numbers.
    """
    if DRAWN not in packed:
        return packed
    private = dict(trees.named_leaves(packed["private"]))
    for name, stored in packed[DRAWN].items():
        draw = _draw(initial, packed, name)
        if not np.allclose(draw(np.zeros(1, int)), stored["witness"][:1], RELATIVE, ABSOLUTE):
            raise InputError(
                f"the checkpoint leaves out drawn numbers of {name}, and other ones are drawn "
                "here; use the version that saved it"
            )
        private[name] = DrawnRows(stored, draw)
    rest = {name: part for name, part in packed.items() if name != DRAWN}
    shape = initial.client_shapes
    structure = trees.kept(shape, private)
    values = [private[name] for name in trees.named_leaves(structure)]
    return {**rest, "private": jax.tree.unflatten(jax.tree.structure(structure), values)}
