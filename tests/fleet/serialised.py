"""Uploads as bytes, and back: what `fleet.transfer` counts."""

from __future__ import annotations

import numpy as np

from fedvlr_jax.fleet.transfer import INDEX_BYTES, VALUE_BYTES, Shape


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
