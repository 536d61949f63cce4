"""Numbers texts by first appearance, in a stream of up to a hundred million texts.

A dictionary takes 1 us for each row, and a categorical column of polars 0.5 us, because each row
waits for memory. This hash table is an array, so one gather looks up a whole block. Two hashes of
64 bits identify a text: the first one selects the slots to search, the second one must be equal.
The numbers do not depend on the hashes.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.rows import GrowingArray

_FEWEST_SLOTS = 1 << 12
# The table grows if a larger fraction of its slots is used.
_LARGEST_LOAD = 0.4
_FREE = -1


def _hashes(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Two hashes, uint64 [n] each."""
    return texts.hash(seed=0x5EED).to_numpy(), texts.hash(seed=0xBEEF).to_numpy()


class IdTable:
    """Maps texts to 0, 1, 2, ... in the order of first appearance."""

    def __init__(self) -> None:
        self._texts: list[pl.Series] = []
        # The two hashes of each text, in the order of the numbers.
        self._firsts, self._seconds = GrowingArray(), GrowingArray()
        # The number of the text in each slot.
        self._slots = np.full(_FEWEST_SLOTS, _FREE, np.int32)

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def texts(self) -> pl.Series:
        """All texts; the text at index i has number i."""
        return pl.concat(self._texts) if self._texts else pl.Series(dtype=pl.String)

    def codes(self, texts: pl.Series) -> np.ndarray:
        """int32 [n]: the number of each text; new texts get the next numbers."""
        firsts, seconds = _hashes(texts)
        codes = self._look_up(firsts, seconds)
        new = np.flatnonzero(codes == _FREE)
        if len(new):
            # `local` numbers the new texts by first appearance.
            local, uniques = pd.factorize(seconds[new])
            place = np.empty(len(uniques), np.int64)
            place[local[::-1]] = new[::-1]
            if not np.array_equal(firsts[place][local], firsts[new]):
                raise InputError(
                    "two ids have the same hash; report this with the file that has them"
                )
            codes[new] = local + len(self)
            self._insert(firsts[place], uniques)
            self._texts.append(texts.gather(place))
        return codes

    def _places(self, firsts: np.ndarray) -> np.ndarray:
        """int64 [n]: the first slot to search for each hash."""
        return (firsts & np.uint64(len(self._slots) - 1)).view(np.int64)

    def _look_up(self, firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """int32 [n]: the number of each text; -1 for a text that is not in the table."""
        places = self._places(firsts)
        codes = self._slots.take(places)
        rest = np.flatnonzero(self._differ(codes, seconds))
        places = places[rest]
        while len(rest):
            places = (places + 1) & (len(self._slots) - 1)
            found = self._slots.take(places)
            codes[rest] = found
            other = self._differ(found, seconds[rest])
            rest, places = rest[other], places[other]
        return codes

    def _differ(self, codes: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """bool [n]: the slots with another text; False for free slots."""
        if not len(self):
            return np.zeros(len(codes), bool)
        return (self._seconds.array.take(codes) != seconds) & (codes != _FREE)

    def _insert(self, firsts: np.ndarray, seconds: np.ndarray) -> None:
        numbers = np.arange(len(self), len(self) + len(firsts), dtype=np.int32)
        self._firsts.append(firsts)
        self._seconds.append(seconds)
        count = len(self._slots)
        if len(self) <= _LARGEST_LOAD * count:
            self._fill(firsts, numbers)
            return
        while len(self) > _LARGEST_LOAD * count:
            count *= 4
        self._slots = np.full(count, _FREE, np.int32)
        self._fill(self._firsts.array, np.arange(len(self), dtype=np.int32))

    def _fill(self, firsts: np.ndarray, numbers: np.ndarray) -> None:
        """Inserts new texts into free slots, by linear probing."""
        places = self._places(firsts)
        while len(numbers):
            free = self._slots.take(places) == _FREE
            # If several texts want one slot, the last one gets it; the others try the next slot.
            self._slots[places[free]] = numbers[free]
            rest = self._slots.take(places) != numbers
            places, numbers = (places[rest] + 1) & (len(self._slots) - 1), numbers[rest]
