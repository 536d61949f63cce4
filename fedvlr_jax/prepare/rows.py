"""Interactions as arrays; the operations need little additional memory."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import polars as pl

# Small enough that the memory of a slice is reused: the system maps larger arrays again each time.
_SLICE_ROWS = 1 << 20


class GrowingArray:
    """An array that grows by blocks; its dtype is the promotion of the dtypes of all blocks.

    Args:
      expected: the expected length, which saves copies while the array grows.
    """

    def __init__(self, expected: int = 0) -> None:
        self._buffer = np.empty(0, np.int8)
        self._length = 0
        self._expected = expected

    def __len__(self) -> int:
        return self._length

    @property
    def array(self) -> np.ndarray:
        """All appended blocks; a view, not a copy."""
        return self._buffer[: self._length]

    def append(self, block: np.ndarray) -> None:
        length = self._length + len(block)
        dtype = np.promote_types(self._buffer.dtype, block.dtype) if self._length else block.dtype
        if length > len(self._buffer) or dtype != self._buffer.dtype:
            # The system does not allocate memory before it is written, so doubling is cheap.
            grown = np.empty(max(length, 2 * len(self._buffer), self._expected), dtype)
            grown[: self._length] = self.array
            self._buffer = grown
        self._buffer[self._length : length] = block
        self._length = length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Interactions in the order of the file.

    Attributes:
      user, item: int32 [n], numbers in the order of first appearance.
      rating: float32 [n], or float64 [n] if float32 is not exact; None without ratings.
      time: int64 [n]; None without times.
      user_ids, item_ids: texts, the original id of each number.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None
    time: np.ndarray | None
    user_ids: pl.Series
    item_ids: pl.Series

    def __len__(self) -> int:
        return len(self.user)

    @functools.cached_property
    def user_counts(self) -> np.ndarray:
        """int64 [user_ids]: the number of rows of each user."""
        return counts(self.user, len(self.user_ids))

    @functools.cached_property
    def item_counts(self) -> np.ndarray:
        """int64 [item_ids]: the number of rows of each item."""
        return counts(self.item, len(self.item_ids))

    def only(self, keep: np.ndarray) -> Rows:
        """The rows with `keep`, bool [n]; the numbers of the ids do not change.

        The result overwrites the memory of these rows; do not use them afterwards.
        """
        removed = len(self) - np.count_nonzero(keep)
        if not removed:
            return self
        counted = self._counts_without(np.flatnonzero(~keep)) if removed < len(self) // 8 else {}
        arrays = (self.user, self.item, self.rating, self.time)
        user, item, rating, time = (None if a is None else _compact(a, keep) for a in arrays)
        assert user is not None and item is not None
        rows = dataclasses.replace(self, user=user, item=item, rating=rating, time=time)
        rows.__dict__.update(counted)
        return rows

    def _counts_without(self, removed: np.ndarray) -> dict[str, np.ndarray]:
        """The known counts without the rows `removed`; cheaper than counting all other rows."""
        codes = {"user_counts": self.user, "item_counts": self.item}
        known = {name: self.__dict__[name] for name in codes if name in self.__dict__}
        return {
            name: before - counts(codes[name][removed], len(before))
            for name, before in known.items()
        }


def _compact(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Moves the entries with `keep` to the front of `array`, slice by slice."""
    end = 0
    for start in range(0, len(array), _SLICE_ROWS):
        at = slice(start, start + _SLICE_ROWS)
        kept = array[at][keep[at]]
        array[end : end + len(kept)] = kept
        end += len(kept)
    return array[:end]


def counts(codes: np.ndarray, count: int) -> np.ndarray:
    """int64 [count]: the number of occurrences of each code.

    Counts in slices, because bincount copies its argument to int64. Each slice is longer than the
    result, so that the sum over slices costs less than counting.
    """
    total = np.zeros(count, np.int64)
    rows = max(_SLICE_ROWS, 2 * count)
    for start in range(0, len(codes), rows):
        total += np.bincount(codes[start : start + rows], minlength=count)
    return total


def gather(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """`table[codes]`, for `table` [count] and `codes` [n].

    Gathers in slices, because indexing copies its argument to int64.
    """
    found = np.empty(len(codes), table.dtype)
    for start in range(0, len(codes), _SLICE_ROWS):
        at = slice(start, start + _SLICE_ROWS)
        found[at] = table.take(codes[at])
    return found
