"""Bytes of one client's transfers by scheme, equal to those of the serialised arrays.

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


def _packed(rows: np.ndarray, bits: int) -> bytes:
    """The bytes of float32 rows [R, C]; with fewer bits, of rows from `uplink.quantised`."""
    if bits == 32:
        return rows.tobytes()
    levels = 2 ** (bits - 1) - 1
    scale = np.abs(rows).max(axis=1, initial=0).astype(np.float32)
    number = np.round(rows / np.where(scale > 0, scale, 1)[:, None] * levels).astype(int) + levels
    binary = number[:, :, None] >> np.arange(bits)[::-1] & 1
    return scale.tobytes() + np.packbits(binary.reshape(len(rows), -1), axis=1).tobytes()


def _unpacked(data: bytes, shape: Shape) -> np.ndarray:
    """float32 [R, C]: the inverse of `_packed`."""
    if shape.bits == 32:
        return np.frombuffer(data, np.float32).reshape(-1, shape.row)
    count, levels = len(data) // shape.row_bytes, 2 ** (shape.bits - 1) - 1
    scale = np.frombuffer(data[: VALUE_BYTES * count], np.float32)
    packed = np.frombuffer(data[VALUE_BYTES * count :], np.uint8).reshape(count, -1)
    binary = np.unpackbits(packed, axis=1, count=shape.row * shape.bits)
    power = 1 << np.arange(shape.bits)[::-1]
    number = binary.reshape(count, shape.row, shape.bits) @ power - levels
    return (number * (scale / np.float32(levels))[:, None]).astype(np.float32)


def serialised(views: np.ndarray, head: np.ndarray, scheme: str, bits: int = 32) -> bytes:
    """The bytes of an upload: views float32 [I, C], head float32 [H].

    The receiver knows the shapes.
    """
    mask = (views != 0).any(axis=1)
    if scheme == "dense":
        return _packed(views, bits) + head.tobytes()
    if scheme == "sparse":
        where = np.flatnonzero(mask).astype(np.uint32).tobytes()
    else:
        where = np.packbits(mask).tobytes()
    return where + _packed(views[mask], bits) + head.tobytes()


def parsed(data: bytes, shape: Shape, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """(views [I, C], head [H]): the inverse of `serialised`."""
    views = np.zeros((shape.items, shape.row), np.float32)
    split = len(data) - VALUE_BYTES * shape.head
    body, head = data[:split], np.frombuffer(data[split:], np.float32)
    if scheme == "dense":
        return _unpacked(body, shape), head
    touched: np.ndarray
    if scheme == "sparse":
        count = len(body) // (shape.row_bytes + INDEX_BYTES)
        touched = np.frombuffer(body[: INDEX_BYTES * count], np.uint32)
        values = body[INDEX_BYTES * count :]
    else:
        size = -(-shape.items // 8)
        bits = np.unpackbits(np.frombuffer(body[:size], np.uint8), count=shape.items)
        touched, values = np.flatnonzero(bits), body[size:]
    views[touched] = _unpacked(values, shape)
    return views, head
