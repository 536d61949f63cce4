"""Interactions as arrays, in little more memory than they need themselves."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import polars as pl

_SLICE_ROWS = 1 << 22


class GrowingArray:
    """An array that blocks are appended to, with the widest of their types."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.int8)
        self._length = 0

    @property
    def array(self) -> np.ndarray:
        """What was appended so far; not a copy."""
        return self._buffer[: self._length]

    def append(self, block: np.ndarray) -> None:
        length = self._length + len(block)
        dtype = np.promote_types(self._buffer.dtype, block.dtype)
        if length > len(self._buffer) or dtype != self._buffer.dtype:
            # Memory that is not written to yet costs nothing, so growing may be generous.
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
      rating: float32 or float64 [n], float32 where that is exact; None where the file has none.
      time: int64 [n]; None where the file has none.
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
        """int64 [user_ids]: the rows of each user."""
        return counts(self.user, len(self.user_ids))

    @functools.cached_property
    def item_counts(self) -> np.ndarray:
        """int64 [item_ids]: the rows of each item."""
        return counts(self.item, len(self.item_ids))

    def only(self, keep: np.ndarray) -> Rows:
        """The rows that `keep`, bool [n], marks; the ids keep their numbers.

        They lie where these rows lay: do not use these rows afterwards.
        """
        if keep.all():
            return self
        arrays = (self.user, self.item, self.rating, self.time)
        user, item, rating, time = (None if a is None else _compact(a, keep) for a in arrays)
        assert user is not None and item is not None
        return dataclasses.replace(self, user=user, item=item, rating=rating, time=time)


def _compact(array: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The entries that stay, moved to the front of `array` slice by slice."""
    end = 0
    for start in range(0, len(array), _SLICE_ROWS):
        at = slice(start, start + _SLICE_ROWS)
        kept = array[at][keep[at]]
        array[end : end + len(kept)] = kept
        end += len(kept)
    return array[:end]


def counts(codes: np.ndarray, count: int) -> np.ndarray:
    """int64 [count]: how often each code occurs; in slices, for bincount widens what it counts."""
    total = np.zeros(count, np.int64)
    for start in range(0, len(codes), _SLICE_ROWS):
        total += np.bincount(codes[start : start + _SLICE_ROWS], minlength=count)
    return total
