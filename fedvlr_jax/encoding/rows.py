"""Encodes the items of a data set into one array, in blocks that a stopped run does not lose."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedvlr_jax.encoding.encoder import TILE, Encoder
from fedvlr_jax.machine import memory_limit

_MOST_BATCH = 512
_DECODED_BYTES = 4 * 3 * 1024 * 1024
_FRACTION_OF_MEMORY = 0.1


def batch_size_by_memory() -> int:
    """How many decoded pictures fit a tenth of the free memory, a multiple of `TILE`."""
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        free = min(available, memory_limit().size)
    except (ValueError, OSError):
        return 4 * TILE
    fits = int(free * _FRACTION_OF_MEMORY / _DECODED_BYTES)
    return max(TILE, min(_MOST_BATCH, fits) // TILE * TILE)


def key_of(parts: Iterable[Any]) -> str:
    """SHA-256 (hex) of what decides the rows: a stopped run of the same key is gone on with."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def encode_rows(
    encoder: Encoder,
    places: Sequence[int],
    read: Callable[[int], Any],
    *,
    batch_size: int,
    partial: Path,
    key: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """float32 [len(places), width]: the encoded items, in the order of `places`.

    Rows do not depend on `batch_size`, nor on where a stopped run went on: every forward pass
    has the same `TILE` neighbours, and the last one is filled up with its last item.

    Args:
      read: the text or the decoded picture of a place.
      batch_size: items that are read before they are encoded; a multiple of `TILE` or rounded up.
      partial: where rows are kept until all are done; `key` tells whether they are these.
      progress: called with the number of rows done and of all.
    """
    batch_size = -(-batch_size // TILE) * TILE
    rows, done = _resume(partial, key)
    progress(done, len(places))
    while done < len(places):
        chosen = places[done : done + batch_size]
        items = [read(place) for place in chosen]
        block = np.concatenate(
            [_encode_tile(encoder, items[at : at + TILE]) for at in range(0, len(items), TILE)]
        )
        rows.append(block)
        done += len(block)
        _keep(partial, len(rows) - 1, block)
        progress(done, len(places))
    return np.concatenate(rows)


def _encode_tile(encoder: Encoder, items: list[Any]) -> np.ndarray:
    filled = items + [items[-1]] * (TILE - len(items))
    return encoder.encode(filled)[: len(items)]


def _resume(partial: Path, key: str) -> tuple[list[np.ndarray], int]:
    """The blocks that an earlier run of the same key kept, and how many rows they have."""
    partial.mkdir(exist_ok=True)
    held = partial / "key"
    if not held.is_file() or held.read_text() != key:
        for path in partial.iterdir():
            path.unlink()
        held.write_text(key)
    rows: list[np.ndarray] = []
    while (path := partial / f"{len(rows):06d}.npy").is_file():
        rows.append(np.load(path))
    return rows, sum(map(len, rows))


def _keep(partial: Path, number: int, block: np.ndarray) -> None:
    """Writes a block under its name only when it is whole."""
    unfinished = partial / "unfinished.npy"
    np.save(unfinished, block)
    unfinished.replace(partial / f"{number:06d}.npy")
