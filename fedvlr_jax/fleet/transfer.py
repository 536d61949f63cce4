"""Bytes of one client's transfers by scheme: exact, as of the serialised arrays.

Exact row indices are the history, or hold it: only `dense` does not tell which rows a client
touched.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

VALUE_BYTES, INDEX_BYTES = 4, 4
SCHEMES = ("dense", "sparse", "bitmask")


class Shape(NamedTuple):
    """What travels: views of `items` rows of `row` numbers each, and `head` numbers beside."""

    items: int
    row: int
    head: int


def round_bytes(shape: Shape, touched: np.ndarray | float, scheme: str) -> np.ndarray:
    """Bytes of an upload that has `touched` rows that are not zero.

    dense: every row. sparse: the touched rows, each with its number in 4 bytes. bitmask: the
    touched rows, and one bit for every row, in whole bytes.
    """
    touched = np.asarray(touched)
    rows = {
        "dense": VALUE_BYTES * shape.items * shape.row + 0 * touched,
        "sparse": touched * (VALUE_BYTES * shape.row + INDEX_BYTES),
        "bitmask": touched * VALUE_BYTES * shape.row + -(-shape.items // 8),
    }[scheme]
    return rows + VALUE_BYTES * shape.head


def serialised(views: np.ndarray, head: np.ndarray, scheme: str) -> bytes:
    """An upload as it is sent: views float32 [I, C], head float32 [H].

    The receiver knows the shapes.
    """
    touched = np.flatnonzero((views != 0).any(axis=1))
    if scheme == "dense":
        body = views.tobytes()
    elif scheme == "sparse":
        body = touched.astype(np.uint32).tobytes() + views[touched].tobytes()
    else:
        mask = np.packbits((views != 0).any(axis=1))
        body = mask.tobytes() + views[touched].tobytes()
    return body + head.tobytes()


def parsed(data: bytes, shape: Shape, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """(views [I, C], head [H]) of what `serialised` made."""
    views = np.zeros((shape.items, shape.row), np.float32)
    split = len(data) - VALUE_BYTES * shape.head
    body, head = data[:split], np.frombuffer(data[split:], np.float32)
    if scheme == "dense":
        return np.frombuffer(body, np.float32).reshape(views.shape), head
    touched: np.ndarray
    if scheme == "sparse":
        count = len(body) // (VALUE_BYTES * shape.row + INDEX_BYTES)
        touched = np.frombuffer(body[: INDEX_BYTES * count], np.uint32)
        values = body[INDEX_BYTES * count :]
    else:
        size = -(-shape.items // 8)
        bits = np.unpackbits(np.frombuffer(body[:size], np.uint8), count=shape.items)
        touched, values = np.flatnonzero(bits), body[size:]
    views[touched] = np.frombuffer(values, np.float32).reshape(-1, shape.row)
    return views, head
