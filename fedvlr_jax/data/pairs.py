"""Lists of items of different lengths as (client, item) pairs; memory grows with the items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.dataset import Interactions
from fedvlr_jax.types import Array


class Pairs(NamedTuple):
    """The items of the clients of one chunk, one pair for each item, in the order of the clients.

    The length of a list is the number of items in the chunk, so a client with many items does not
    pad the other clients. Stacked lists, [C, Q], have one row for each chunk and a common length.

    Attributes:
      client: int32 [Q], the row of the client in the chunk; 0 in padding.
      item: int32 [Q]; I in padding, which comes last.
    """

    client: Array
    item: Array


class ChunkLists(NamedTuple):
    """The pairs of some chunks, and their indices in the part.

    Attributes:
      pairs: `Pairs` of int32 [C, Q], one list for each chunk.
      entry: int64 [C, Q], the index of each pair in `Interactions.item`; -1 in padding.
    """

    pairs: Pairs
    entry: np.ndarray


def chunk_lists(
    parts: Sequence[Interactions], clients: np.ndarray, bounds: np.ndarray
) -> list[ChunkLists]:
    """The entries of each part, as one list of pairs for each chunk of clients.

    The lists of all parts have one length Q >= 1, the largest number of entries of a chunk in a
    part. One compiled program can then process all lists.

    Args:
      clients: int64 [R], the user of each row, each user at most once; N in a padding row.
      bounds: int64 [C + 1], ascending; chunk c has the rows bounds[c]:bounds[c + 1].
    """
    counts = [np.append(part.counts, 0)[clients] for part in parts]
    totals = [np.add.reduceat(count, bounds[:-1]) for count in counts]
    length = max(1, *(int(total.max(initial=0)) for total in totals))
    return [
        _chunk_lists(part, clients, bounds, count, length)
        for part, count in zip(parts, counts, strict=True)
    ]


def _chunk_lists(
    part: Interactions, clients: np.ndarray, bounds: np.ndarray, counts: np.ndarray, length: int
) -> ChunkLists:
    shape = len(bounds) - 1, length
    before = np.append(0, np.cumsum(counts))
    row = np.repeat(np.arange(len(clients)), counts)
    number = np.arange(len(row))
    chunk = np.searchsorted(bounds, row, side="right") - 1
    at = chunk, number - before[bounds[chunk]]
    client = np.zeros(shape, np.int32)
    item = np.full(shape, part.num_items, np.int32)
    entry = np.full(shape, -1, np.int64)
    client[at] = row - bounds[chunk]
    entry[at] = part.indptr[clients[row]] + number - before[row]
    item[at] = part.item[entry[at]]
    return ChunkLists(Pairs(client, item), entry)


def in_part_order(
    entries: Iterable[np.ndarray], values: Iterable[np.ndarray], size: int
) -> np.ndarray:
    """int32 [size]: one value for each entry of a part, in the order of `Interactions.item`.

    Args:
      entries: `ChunkLists.entry` of chunks that contain every entry once.
      values: integers of the same sizes; values of padding are ignored.
      size: the number of entries of the part.
    """
    result = np.zeros(size, np.int32)
    for entry, value in zip(entries, values, strict=True):
        real = entry.ravel() >= 0
        result[entry.ravel()[real]] = np.ravel(value)[real]
    return result
