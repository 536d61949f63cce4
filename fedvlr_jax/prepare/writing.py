"""Writes the project's layout: dense ids, their mappings, titles, and a manifest.

Equal rows and options give equal bytes. All files are written to a temporary folder that is renamed
at the end, so the target folder is complete or absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.prepare.items import Item
from fedvlr_jax.prepare.rows import Rows

MANIFEST = "manifest.json"
# The files of a prepared folder.
WRITTEN = (MANIFEST, "inter.csv", "u_id_mapping.csv", "i_id_mapping.csv", "items.csv")
_SLICE_ROWS = 1 << 21


@contextlib.contextmanager
def whole_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields a temporary folder and renames it to `target` if the block ends without error.

    Args:
      overwrite: replace an existing folder; it must have a manifest of an earlier call, and no
        file of others.

    Raises:
      InputError: `target` exists and may not be replaced, or cannot be written.
    """
    try:
        _check_replaceable(target, overwrite=overwrite)
        # A link keeps its place and the folder that it names is replaced.
        place = Path(os.path.realpath(target))
        place.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise InputError(f"--output={target}: cannot be written ({reason(error)})") from error
    try:
        yield folder
        folder.chmod(0o755)
        if place.exists():
            # Not inside the temporary folder, which is removed if anything fails.
            old = folder.with_name(folder.name + ".old")
            place.rename(old)
            folder.rename(place)
            shutil.rmtree(old)
        else:
            folder.rename(place)
    except OSError as error:
        raise InputError(f"--output={target}: cannot be written ({reason(error)})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_replaceable(target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise InputError(f"--output={target}: exists; give another folder or --overwrite")
    if not (target / MANIFEST).is_file():
        raise InputError(
            f"--output={target}: has no {MANIFEST}, so prepare did not write it; give another "
            "folder"
        )
    if others := sorted({path.name for path in target.iterdir()} - set(WRITTEN)):
        raise InputError(
            f"--output={target}: --overwrite would delete {', '.join(others)[:200]}, which "
            "prepare did not write; features may not fit the new items; move or delete them "
            "first"
        )


def dense(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Consecutive ids for the codes that occur.

    Args:
      counts: [n], the number of occurrences of each code.

    Returns:
      number: int32 [n], the dense id of each code; -1 for a code that does not occur.
      kept: int64, the codes that occur, ascending: kept[i] is the code of dense id i.
    """
    kept = np.flatnonzero(counts)
    number = np.full(len(counts), -1, np.int32)
    number[kept] = np.arange(len(kept), dtype=np.int32)
    return number, kept


def write_layout(
    folder: Path, rows: Rows, part: np.ndarray | None, items: Mapping[str, Item] | None
) -> None:
    """Writes inter.csv, the two mappings and, with `items`, items.csv.

    Dense ids are in the order of first appearance in the source.

    Args:
      part: int8 [n], 0 train, 1 valid, 2 test; None: no split column.
      items: original item id -> title and picture; None: no file of items.
    """
    user_number, users = dense(rows.user_counts)
    item_number, catalogue = dense(rows.item_counts)
    with (folder / "inter.csv").open("wb") as file:
        for start in range(0, len(rows), _SLICE_ROWS):
            at = slice(start, start + _SLICE_ROWS)
            columns = {
                "userID": user_number.take(rows.user[at]),
                "itemID": item_number.take(rows.item[at]),
            }
            if rows.rating is not None:
                columns["rating"] = rows.rating[at]
            if rows.time is not None:
                columns["timestamp"] = rows.time[at]
            if part is not None:
                columns["split_label"] = part[at]
            pl.DataFrame(columns).write_csv(file, include_header=not start)
    user_ids, item_ids = rows.user_ids.gather(users), rows.item_ids.gather(catalogue)
    _write_mapping(folder / "u_id_mapping.csv", "user_id", user_ids, "userID")
    _write_mapping(folder / "i_id_mapping.csv", "item_id", item_ids, "itemID")
    if items is not None:
        known = [items.get(key, Item("", "")) for key in item_ids.to_list()]
        pl.DataFrame(
            {
                "itemID": np.arange(len(item_ids)),
                "item_id": item_ids,
                "title": [item.title for item in known],
                "image": [item.image for item in known],
            }
        ).write_csv(folder / "items.csv")


def _write_mapping(path: Path, original: str, ids: pl.Series, name: str) -> None:
    pl.DataFrame({original: ids, name: np.arange(len(ids))}).write_csv(path)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest. It has no times and no paths, so equal input gives equal bytes."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    # The name of a source may have bytes that are not UTF-8; they become escapes of JSON.
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
