"""Interactions as arrays; the operations need little additional memory."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import polars as pl

_SLICE_ROWS = 1 << 22


class GrowingArray:
    """An array that grows by blocks; its dtype is the promotion of the dtypes of all blocks."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.int8)
        self._length = 0

    @property
    def array(self) -> np.ndarray:
        """All appended blocks; a view, not a copy."""
        return self._buffer[: self._length]

    def append(self, block: np.ndarray) -> None:
        length = self._length + len(block)
        dtype = np.promote_types(self._buffer.dtype, block.dtype)
        if length > len(self._buffer) or dtype != self._buffer.dtype:
            # The system does not allocate memory before it is written, so doubling is cheap.
            grown = np.empty(max(length, 2 * len(self._buffer)), dtype)
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
        if keep.all():
            return self
        arrays = (self.user, self.item, self.rating, self.time)
        user, item, rating, time = (None if a is None else _compact(a, keep) for a in arrays)
        assert user is not None and item is not None
        return dataclasses.replace(self, user=user, item=item, rating=rating, time=time)


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

    Counts in slices, because bincount copies its argument to int64.
    """
    total = np.zeros(count, np.int64)
    for start in range(0, len(codes), _SLICE_ROWS):
        total += np.bincount(codes[start : start + _SLICE_ROWS], minlength=count)
    return total
