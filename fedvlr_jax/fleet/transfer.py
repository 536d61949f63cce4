"""Bytes of one client's transfers by scheme; `tests/fleet/serialised.py` writes and reads them.

The indices of touched rows contain the history. Only `dense` hides which rows a client touched.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedvlr_jax.config.fleet import UPLOAD_FORMATS

VALUE_BYTES, INDEX_BYTES = 4, 4
SCHEMES = UPLOAD_FORMATS


class Shape(NamedTuple):
    """The size of a transfer: `items` rows of `row` numbers for the views, and `head` numbers.

    Attributes:
      bits: bits of a number of the views. 32: float32. Fewer: whole numbers of this many bits, and
        a float32 scale for each row. The head is always float32.
    """

    items: int
    row: int
    head: int
    bits: int = 32

    @property
    def row_bytes(self) -> int:
        """The bytes of one row of the views."""
        if self.bits == 32:
            return VALUE_BYTES * self.row
        return VALUE_BYTES + -(-self.row * self.bits // 8)


def round_bytes(shape: Shape, touched: np.ndarray | float, scheme: str) -> np.ndarray:
    """Bytes of an upload with `touched` non-zero rows.

    dense: every row. sparse: the touched rows, each with its index in 4 bytes. bitmask: the
    touched rows, and one bit for every row, in whole bytes.
    """
    touched = np.asarray(touched)
    rows = {
        "dense": shape.items * shape.row_bytes + 0 * touched,
        "sparse": touched * (shape.row_bytes + INDEX_BYTES),
        "bitmask": touched * shape.row_bytes + -(-shape.items // 8),
    }[scheme]
    return rows + VALUE_BYTES * shape.head
