"""Reads the field's layout ("MMRec form"): one folder a data set.

    <root>/<name>/inter.csv             or inter.tsv, or <name>.inter
    <root>/<name>/<modality>_features.npy    or <modality>_feat.npy; optional
    <root>/<name>/i_id_mapping.csv      original item id, dense id; optional
    <root>/<name>/u_id_mapping.csv      original user id, dense id; optional

What `files.py` reads is never trusted; every fault is an `InputError` of one line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fedvlr_jax.config import DUPLICATE_NAMES, SPLIT_NAMES
from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.files import fault, read_feature, read_table, shown, whole_numbers
from fedvlr_jax.errors import InputError

_SPLIT_COLUMNS = ("split_label", "x_label")
_FEATURE_FILE = re.compile(r"(?P<modality>.+)_(features|feat)\.npy")
_LAST_TIME = 2**62
_LAST_ID = 2**31 - 2
# Without features or a mapping the largest id alone says how long the catalogue is;
# one mistyped id must not make it a thousand times longer.
_LARGEST_GAP_FACTOR = 100


class _Rows(NamedTuple):
    """Interactions in file order: int64 [n] each, part int8 [n] (None: no split column)."""

    line: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    part: np.ndarray | None

    def where(self, keep: np.ndarray) -> _Rows:
        part = None if self.part is None else self.part[keep]
        return _Rows(self.line[keep], self.user[keep], self.item[keep], self.time[keep], part)


def load(root: str | Path, name: str, *, split: str = "auto", duplicates: str = "merge") -> Dataset:
    """Loads and splits one data set.

    Args:
      root: the folder of the data sets.
      name: the folder of this one.
      split: "predefined" (the split column), "leave-one-out" (by time, for each user),
        "global-time" (80/10/10, one cut for all), or "auto": "predefined" where there is
        a split column and "leave-one-out" elsewhere.
      duplicates: a (user, item) pair that occurs several times in one part is merged into
        its earliest entry ("merge") or refused ("error"). Leave-one-out merges before it
        splits.

    Returns:
      The data set. `notes` counts everything that was merged, left out or dropped.
      Features are float32 in the order text, image, then the others by name.

    Raises:
      InputError: names the file, the row (the line in the file, or the row of the array),
        the column, what was found and what would be right.
    """
    _one_of("split", split, SPLIT_NAMES)
    _one_of("duplicates", duplicates, DUPLICATE_NAMES)
    folder = _find_folder(Path(root), name)
    path = _find_interactions(folder)
    feature_files = _feature_files(folder)
    features = {modality: read_feature(file) for modality, file in feature_files.items()}
    item_ids = _read_mapping(folder / "i_id_mapping.csv")
    user_ids = _read_mapping(folder / "u_id_mapping.csv")
    sizes = {file: len(features[modality]) for modality, file in feature_files.items()}
    if item_ids is not None:
        sizes = {folder / "i_id_mapping.csv": len(item_ids), **sizes}
    num_items = _catalogue_size(sizes)

    rows, split_column = _read_interactions(path, num_items=num_items, split=split)
    num_items = num_items or _dense_catalogue(path, rows)
    num_users = _check_users(path, rows.user, user_ids)
    split = _resolve(split, split_column)
    user_ids = _ids(user_ids, num_users)

    notes = [] if features else ["no item features: no file *_features.npy or *_feat.npy"]
    if split != "predefined" and split_column:
        notes.append(f"{path.name}: column {split_column} ignored, the split is {split}")
    rows, kept_users = _split(path, rows, split, duplicates, notes)
    user_ids = user_ids[kept_users]
    train, valid, test = _build(path, rows, len(user_ids), num_items, user_ids, notes)
    return Dataset(
        name=name,
        train=train,
        valid=valid,
        test=test,
        features=features,
        user_ids=user_ids,
        item_ids=_ids(item_ids, num_items),
        split=split,
        notes=tuple(notes),
    )


# Folders and options.


def _one_of(option: str, found: str, right: tuple[str, ...]) -> None:
    if found not in right:
        raise InputError(f"{option}: found {found!r}, expected one of {', '.join(right)}")


def _find_folder(root: Path, name: str) -> Path:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected the folder of the data sets")
    plain = Path(name).name == name and "\0" not in name and len(name.encode()) < 256
    if name in ("", ".", "..") or not plain:
        raise InputError(
            f"data set name: found {shown(name)}, expected the name of a folder in {root}"
        )
    folder = root / name
    if not folder.is_dir():
        known = sorted(
            child.name for child in root.iterdir() if child.is_dir() and _interaction_files(child)
        )
        raise InputError(
            f"{root}: no data set {name!r}; found {', '.join(known) if known else 'none at all'}"
        )
    return folder


def _interaction_files(folder: Path) -> list[Path]:
    names = ("inter.csv", "inter.tsv", f"{folder.name}.inter")
    return [folder / name for name in names if (folder / name).exists()]


def _find_interactions(folder: Path) -> Path:
    found = _interaction_files(folder)
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or "none"
        raise InputError(
            f"{folder}: found {names}, expected exactly one of inter.csv, inter.tsv and "
            f"{folder.name}.inter"
        )
    return found[0]


def _resolve(split: str, split_column: str | None) -> str:
    if split != "auto":
        return split
    return "predefined" if split_column else "leave-one-out"


def _read_interactions(
    path: Path, *, num_items: int | None, split: str
) -> tuple[_Rows, str | None]:
    """The rows of the file and the name of its split column, if it has one."""
    frame = read_table(path)
    columns = list(frame.columns)
    split_columns = [column for column in _SPLIT_COLUMNS if column in columns]
    if len(split_columns) > 1:
        raise InputError(f"{path}, row 1: found {' and '.join(split_columns)}, expected one")
    split_column = split_columns[0] if split_columns else None
    _require_columns(path, columns, split_column, split)

    last_item = _LAST_ID if num_items is None else num_items - 1
    user = whole_numbers(
        path, frame, "userID", low=0, high=_LAST_ID, right="a whole number from 0 on"
    )
    item = whole_numbers(
        path, frame, "itemID", low=0, high=last_item, right=f"a whole number in [0, {last_item}]"
    )
    time = np.zeros(len(frame), np.int64)
    if "timestamp" in columns:
        right = "a whole number (time stamp)"
        time = whole_numbers(
            path, frame, "timestamp", low=-_LAST_TIME, high=_LAST_TIME, right=right
        )
    part = None
    if split_column and split in ("auto", "predefined"):
        right = "0 (train), 1 (valid) or 2 (test)"
        part = whole_numbers(path, frame, split_column, low=0, high=2, right=right)
        part = part.astype(np.int8)
    line = np.arange(2, len(frame) + 2)
    return _Rows(line=line, user=user, item=item, time=time, part=part), split_column


def _require_columns(path: Path, columns: list[str], split_column: str | None, split: str) -> None:
    found = ", ".join(map(str, columns))
    found = repr(found if len(found) <= 200 else f"{found[:200]}...")
    for column in ("userID", "itemID"):
        if column not in columns:
            raise InputError(
                f"{path}, row 1: no column {column}; found the columns {found}, expected a header "
                "with userID, itemID and, separated by commas or tabs, any others"
            )
    if split == "predefined" and split_column is None:
        raise InputError(
            f"{path}, row 1: no column split_label (or x_label), which split 'predefined' needs; "
            f"found the columns {found}"
        )
    split = _resolve(split, split_column)
    if split != "predefined" and "timestamp" not in columns:
        raise InputError(
            f"{path}, row 1: no column timestamp, which split '{split}' needs; found the columns "
            f"{found}"
        )


# Ids.


def _read_mapping(path: Path) -> np.ndarray | None:
    """Original ids in the order of the dense ones, str [n]; None without a file."""
    if not path.exists():
        return None
    frame = read_table(path, text_only=True)
    if len(frame.columns) != 2:
        raise InputError(
            f"{path}, row 1: found {len(frame.columns)} column(s), expected two: original id, "
            "dense id"
        )
    original, dense = frame.columns
    last = len(frame) - 1
    right = f"a whole number in [0, {last}], each once"
    position = whole_numbers(path, frame, dense, low=0, high=last, right=right)
    for column, values in ((dense, pd.Series(position)), (original, frame[original])):
        repeated = values.duplicated().to_numpy()
        if repeated.any():
            row = int(np.argmax(repeated))
            raise fault(path, row + 2, column, values.iloc[row], "no id twice")
    empty = frame[original].str.strip().eq("").to_numpy()
    if empty.any():
        raise fault(path, int(np.argmax(empty)) + 2, original, None, "an original id")
    ids = np.empty(len(frame), object)
    ids[position] = frame[original].to_numpy(object)
    return ids.astype(str)


def _ids(ids: np.ndarray | None, count: int) -> np.ndarray:
    return np.arange(count).astype(str) if ids is None else ids


def _catalogue_size(sizes: dict[Path, int]) -> int | None:
    """The number of items that all files with one row an item agree on; None without any."""
    if not sizes:
        return None
    (reference, size), *others = sizes.items()
    for path, rows in others:
        if rows != size:
            raise InputError(
                f"{path}: found {rows} rows, expected {size}, one for each item of {reference.name}"
            )
    return size


def _dense_catalogue(path: Path, rows: _Rows) -> int:
    """The catalogue size where only the interactions tell it: the largest id plus one."""
    size, distinct = int(rows.item.max()) + 1, len(np.unique(rows.item))
    if size > _LARGEST_GAP_FACTOR * distinct:
        row = int(np.argmax(rows.item))
        right = f"dense ids from 0 on (only {distinct} different items occur)"
        raise fault(path, int(rows.line[row]), "itemID", rows.item[row], right)
    return size


def _check_users(path: Path, user: np.ndarray, user_ids: np.ndarray | None) -> int:
    """Every user id from 0 to the largest must occur; returns how many there are."""
    present = np.unique(user)
    largest = int(present[-1])
    if user_ids is not None and largest >= len(user_ids):
        row = int(np.argmax(user))
        right = f"an id in [0, {len(user_ids) - 1}], the ids of u_id_mapping.csv"
        raise fault(path, row + 2, "userID", user[row], right)
    num_users = largest + 1 if user_ids is None else len(user_ids)
    if len(present) < num_users:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        missing = int(gaps[0]) if len(gaps) else len(present)
        raise InputError(
            f"{path}, column userID: no row has user {missing}, expected every id in "
            f"[0, {num_users - 1}] (the largest is in row {int(np.argmax(user)) + 2})"
        )
    return num_users


# Features.


def _feature_files(folder: Path) -> dict[str, Path]:
    """Modality -> file, in the order text, image, then the others by name."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _FEATURE_FILE.fullmatch(path.name)
        if not match:
            continue
        modality = match["modality"]
        if modality in files:
            raise InputError(
                f"{path}: a second file of modality {modality!r} beside {files[modality].name}, "
                "expected one"
            )
        if modality == "id":
            raise InputError(f"{path}: the modality name 'id' is taken by the item embedding")
        files[modality] = path
    usual = ("text", "image")
    order = [name for name in usual if name in files]
    return {name: files[name] for name in (*order, *(n for n in files if n not in usual))}


# The split.


def _split(
    path: Path, rows: _Rows, split: str, duplicates: str, notes: list[str]
) -> tuple[_Rows, np.ndarray]:
    """Gives every row its part.

    Returns the rows that stay, with users numbered anew where some were dropped, and the
    old ids of the users that stay.
    """
    if split == "leave-one-out":
        rows = _merge(path, rows, duplicates, notes)
    rows = rows._replace(part=_parts(path, rows, split))
    users = np.unique(rows.user)
    if split == "global-time":
        rows, users = _drop_users_without_train(path, rows, notes)
    return _leave_out_leaked(path, _merge(path, rows, duplicates, notes), notes), users


def _parts(path: Path, rows: _Rows, split: str) -> np.ndarray | None:
    try:
        if split == "leave-one-out":
            return splits.leave_one_out(rows.user, rows.time)
        if split == "global-time":
            return splits.global_time(rows.time)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return rows.part


def _merge(path: Path, rows: _Rows, duplicates: str, notes: list[str]) -> _Rows:
    keep, first = splits.find_repeats(rows.user, rows.item, rows.time, rows.part)
    if first is None:
        return rows
    if duplicates == "error":
        pair = f"({rows.user[first]}, {rows.item[first]})"
        raise InputError(
            f"{path}, row {rows.line[first]}, columns userID, itemID: the pair {pair} occurs "
            "again, expected every pair once in a part; remove it or choose duplicates 'merge'"
        )
    count = int((~keep).sum())
    notes.append(
        f"{path.name}: merged {count} duplicate interactions (user, item); first at line "
        f"{rows.line[first]}"
    )
    return rows.where(keep)


def _drop_users_without_train(
    path: Path, rows: _Rows, notes: list[str]
) -> tuple[_Rows, np.ndarray]:
    kept = np.unique(rows.user[rows.part == splits.TRAIN])
    stays = np.isin(rows.user, kept)
    dropped = len(np.unique(rows.user[~stays]))
    if dropped:
        notes.append(
            f"{path.name}: dropped {dropped} users without train interactions "
            f"({int((~stays).sum())} interactions)"
        )
    rows = rows.where(stays)
    return rows._replace(user=np.searchsorted(kept, rows.user)), kept


def _leave_out_leaked(path: Path, rows: _Rows, notes: list[str]) -> _Rows:
    assert rows.part is not None
    leaked = splits.find_leaked(rows.user, rows.item, rows.part)
    for part in (splits.VALID, splits.TEST):
        lines = rows.line[leaked & (rows.part == part)]
        if len(lines):
            notes.append(
                f"{path.name}: left {len(lines)} {splits.PART_NAMES[part]} targets out that the "
                f"same user has in an earlier part; first at line {lines[0]}"
            )
    return rows.where(~leaked)


def _build(
    path: Path, rows: _Rows, num_users: int, num_items: int, user_ids: np.ndarray, notes: list[str]
) -> tuple[Interactions, Interactions, Interactions]:
    parts = []
    for part, part_name in enumerate(splits.PART_NAMES):
        chosen = np.asarray(rows.part == part)
        parts.append(
            Interactions.from_pairs(
                user=rows.user[chosen],
                item=rows.item[chosen],
                time=rows.time[chosen],
                num_users=num_users,
                num_items=num_items,
            )
        )
        if not chosen.any() and part != splits.TRAIN:
            notes.append(f"{path.name}: the {part_name} part has no interactions")
    train, valid, test = parts
    without = np.flatnonzero(train.counts == 0)
    if len(without):
        user = int(without[0])
        row = int(rows.line[np.argmax(rows.user == user)])
        raise InputError(
            f"{path}, row {row}, column userID: user {user} (original id "
            f"{shown(user_ids[user])}) has no train interaction, expected at least one"
        )
    cold = int((train.item_counts == 0).sum())
    if cold:
        notes.append(f"{path.name}: {cold} of {num_items} items have no train interaction")
    return train, valid, test
