"""The tables of a data set in the layout of MMRec: columns, ids and rows, see `mmrec.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from fedvlr_jax.data.division import Rows
from fedvlr_jax.data.faults import fault, shown
from fedvlr_jax.data.tables import Table, read_table
from fedvlr_jax.errors import InputError

_SPLIT_COLUMNS = ("split_label", "x_label")
_LAST_TIME = 2**62


def check_columns(table: Table, split: str) -> str | None:
    """The name of the split column; None without one.

    Raises:
      InputError: a needed column is missing.
    """
    path, columns = table.path, table.columns
    split_columns = [column for column in _SPLIT_COLUMNS if column in columns]
    if len(split_columns) > 1:
        raise InputError(f"{path}, row 1: found {' and '.join(split_columns)}, expected one")
    split_column = split_columns[0] if split_columns else None
    found = ", ".join(columns)
    found = repr(found if len(found) <= 200 else f"{found[:200]}...")
    for column in ("userID", "itemID"):
        if column not in columns:
            raise InputError(
                f"{path}, row 1: no column {column}; found the columns {found}, expected a header "
                "with userID, itemID and, separated by commas or tabs, any others; "
                "fedvlr prepare reads the other forms"
            )
    if split == "predefined" and split_column is None:
        raise InputError(
            f"{path}, row 1: no column split_label (or x_label), which split 'predefined' needs; "
            f"found the columns {found}"
        )
    split = resolve_split(split, split_column)
    if split != "predefined" and "timestamp" not in columns:
        raise InputError(
            f"{path}, row 1: no column timestamp, which split '{split}' needs; found the columns "
            f"{found}"
        )
    return split_column


def resolve_split(split: str, split_column: str | None) -> str:
    """The split that "auto" stands for; any other as it is."""
    if split != "auto":
        return split
    return "predefined" if split_column else "leave-one-out"


def unused_columns(
    table: Table, split_column: str | None, split: str, min_rating: float | None
) -> list[str]:
    """Notes on the columns that the loader does not use.

    Args:
      min_rating: the rating from which the rows were kept; None: all were.
    """
    name, notes = table.path.name, []
    if split != "predefined" and split_column:
        notes.append(f"{name}: column {split_column} is not used, the split is {split}")
    used = {"userID", "itemID", "timestamp", split_column}
    unused = [column for column in table.columns if column not in used]
    if "rating" in unused:
        unused.remove("rating")
        kept = "fedvlr prepare --min_rating=R keeps the rows with at least R"
        if min_rating is not None:
            kept = f"prepared with --min_rating={min_rating:g}"
        notes.append(
            f"{name}: column rating is not used, all interactions have equal weight; {kept}"
        )
    if unused:
        listed = ", ".join(column if column.isprintable() else shown(column) for column in unused)
        notes.append(f"{name}: not used: {'columns' if len(unused) > 1 else 'column'} {listed}")
    return notes


def rows_of(table: Table, user: np.ndarray, item: np.ndarray, part_column: str | None) -> Rows:
    """The rows of the table; with `part_column`, also the part of each row."""
    time = np.zeros(len(user), np.int64)
    if "timestamp" in table.columns:
        right = f"a whole number (time stamp) from {-_LAST_TIME} to {_LAST_TIME}, written out"
        time = table.integers("timestamp", low=-_LAST_TIME, high=_LAST_TIME, right=right)
    part = None
    if part_column:
        right = "0 (train), 1 (valid) or 2 (test)"
        part = table.integers(part_column, low=0, high=2, right=right).astype(np.int8)
    return Rows(place=np.arange(2, len(user) + 2), user=user, item=item, time=time, part=part)


def items_of(
    table: Table, item_ids: np.ndarray | None, sizes: dict[Path, int], notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The item of each row, int64 [n], and the original ids of the catalogue, str [I]."""
    num_items = _catalogue_size(sizes)
    if num_items is None:
        return table.names("itemID")
    reference = next(iter(sizes)).name
    right = f"a whole number in [0, {num_items - 1}], a row of {reference}"
    item = table.integers("itemID", low=0, high=num_items - 1, right=right)
    absent = num_items - len(np.unique(item))
    if absent:
        notes.append(
            f"{table.path.name}: {absent} of {num_items} items of {reference} never occur; every "
            "ranking has them as candidates, and protocol 'strict' draws them as negatives"
        )
    return item, np.arange(num_items).astype(str) if item_ids is None else item_ids


def users_of(
    table: Table, user_ids: np.ndarray | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The user of each row, int64 [n], and the original ids of those who occur, str [N]."""
    if user_ids is None:
        return table.names("userID")
    right = f"a whole number in [0, {len(user_ids) - 1}], a dense id of u_id_mapping.csv"
    user = table.integers("userID", low=0, high=len(user_ids) - 1, right=right)
    present, user = np.unique(user, return_inverse=True)
    absent = len(user_ids) - len(present)
    if absent:
        notes.append(
            f"{table.path.name}: left out {absent} users of u_id_mapping.csv who have no "
            "interactions"
        )
    return user, user_ids[present]


def read_mapping(path: Path) -> np.ndarray | None:
    """Original ids in the order of the dense ones, str [n]; None without a file.

    Raises:
      InputError: the file is not a mapping, or its columns may be in the other order.
    """
    if not path.exists():
        return None
    table = read_table(path, text_only=True)
    frame = table.frame
    if len(frame.columns) != 2:
        raise InputError(
            f"{path}, row 1: found {len(frame.columns)} column(s), expected two: original id, "
            "dense id"
        )
    original, dense = table.columns
    last = len(frame) - 1
    right = f"a whole number in [0, {last}], each once"
    position = table.integers(dense, low=0, high=last, right=right)
    for column, values in ((dense, pd.Series(position)), (original, frame[original])):
        repeated = values.duplicated().to_numpy()
        if repeated.any():
            row = int(np.argmax(repeated))
            raise fault(path, row + 2, column, values.iloc[row], "no id twice")
    empty = frame[original].str.strip().eq("").to_numpy()
    if empty.any():
        raise fault(path, int(np.argmax(empty)) + 2, original, None, "an original id")
    dense_ids = {str(number) for number in range(len(frame))}
    if original in ("userID", "itemID") and dense_ids == set(frame[original]):
        raise InputError(
            f"{path}, row 1: found the columns {original}, {dense}, of which either may be the "
            "dense id; expected the original id first, under another name"
        )
    ids = np.empty(len(frame), object)
    ids[position] = frame[original].to_numpy(object)
    return ids.astype(str)


def _catalogue_size(sizes: dict[Path, int]) -> int | None:
    """The common number of rows of all files with one row for each item; None without files.

    Raises:
      InputError: the files have different numbers of rows.
    """
    if not sizes:
        return None
    (reference, size), *others = sizes.items()
    for path, rows in others:
        if rows != size:
            raise InputError(
                f"{path}: found {rows} rows, expected {size}, one for each item of {reference.name}"
            )
    return size
