"""Encodes the items of a data set into one array; an interrupted run keeps finished blocks."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedvlr_jax.encoding.encoder import TILE, Encoder
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.machine import memory_limit

_MOST_BATCH = 512
_DECODED_BYTES = 4 * 3 * 1024 * 1024
_FRACTION_OF_MEMORY = 0.1


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turns an OSError of the block, which writes `file`, into one line; removes the file then."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        raise InputError(f"{file.parent}: cannot be written: {reason(error)}") from error


def batch_size_by_memory() -> int:
    """The number of decoded pictures that fit a tenth of the free memory, a multiple of `TILE`."""
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        free = min(available, memory_limit().size)
    except (ValueError, OSError):
        return 4 * TILE
    fits = int(free * _FRACTION_OF_MEMORY / _DECODED_BYTES)
    return max(TILE, min(_MOST_BATCH, fits) // TILE * TILE)


def key_of(parts: Iterable[Any]) -> str:
    """SHA-256 (hex) of all inputs of the rows. A run resumes an interrupted run of equal key."""
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

    The rows do not depend on `batch_size` or on interruptions: every forward pass has the same
    `TILE` items. The last one repeats its last item as padding.

    Args:
      places: the indices of the items to encode.
      read: index -> the text or the decoded picture.
      batch_size: the number of items to read before they are encoded; rounded up to a multiple of
        `TILE`.
      partial: the folder that keeps finished blocks until all are done.
      key: identifies the inputs, see `key_of`; blocks of another key are deleted.
      progress: called with the number of finished rows and of all rows.
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
    """The blocks that an earlier run of equal key kept, and their number of rows."""
    key_file = partial / "key"
    with writing(key_file):
        partial.mkdir(exist_ok=True)
        if not key_file.is_file() or key_file.read_text() != key:
            for path in partial.iterdir():
                path.unlink()
            key_file.write_text(key)
    rows: list[np.ndarray] = []
    while (path := partial / f"{len(rows):06d}.npy").is_file():
        rows.append(np.load(path))
    return rows, sum(map(len, rows))


def _keep(partial: Path, number: int, block: np.ndarray) -> None:
    """Writes a block; the file has its name only after it is complete."""
    unfinished = partial / "unfinished.npy"
    with writing(unfinished):
        np.save(unfinished, block)
        unfinished.replace(partial / f"{number:06d}.npy")
