"""Reads the layout of MMRec, common in the field: one folder for each data set.

    <root>/<name>/inter.csv             or inter.tsv or <name>.inter; may end in .gz, .bz2 or .xz
    <root>/<name>/<modality>_features.npy    or <modality>_feat.npy; optional
    <root>/<name>/i_id_mapping.csv      original item id, dense id; optional
    <root>/<name>/u_id_mapping.csv      original user id, dense id; optional

With features or i_id_mapping.csv, an item id is a row number of these files. Without them, an item
id is a name, and the catalogue is the items that occur. The same holds for users and
u_id_mapping.csv, but users without interactions are left out.

`files.py` checks all input. Every fault is an `InputError` of one line.
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
from fedvlr_jax.data.division import Repeat, Rows, divide, interactions_of
from fedvlr_jax.data.files import Table, fault, read_feature, read_table, shown
from fedvlr_jax.errors import InputError

_SPLIT_COLUMNS = ("split_label", "x_label")
_FEATURE_FILE = re.compile(r"(?P<modality>.+)_(features|feat)\.npy")
_LAST_TIME = 2**62
_COMPRESSIONS = ("", ".gz", ".bz2", ".xz")
# Suffixes of array files. A note names each such file that is not read.
_ARRAY_SUFFIXES = (
    *(".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".h5", ".hdf5", ".mat"),
    *(".safetensors", ".parquet", ".feather", ".arrow"),
)


class _Source(NamedTuple):
    """The file of the rows, and the original ids of users and items, str [N] and [I]."""

    path: Path
    user_ids: np.ndarray
    item_ids: np.ndarray


def load(root: str | Path, name: str, *, split: str = "auto", duplicates: str = "merge") -> Dataset:
    """Loads and splits one data set.

    Args:
      root: the folder of the data sets.
      name: the name of the data set's folder.
      split: "predefined" (the split column), "leave-one-out" (by time, for each user),
        "global-time" (80/10/10, the same times for all users), or "auto": "predefined" with a
        split column and "leave-one-out" without.
      duplicates: "merge" merges equal (user, item) pairs of one part into the earliest entry;
        "error" refuses them. Leave-one-out merges before the split.

    Returns:
      The data set. `notes` counts the merged, left out and dropped entries. Features are float32
      in the order text, image, then the others by name.

    Raises:
      InputError: the message names the file, the row (the line of the file, or the row of the
        array), the column, the value found and the value expected.
    """
    _one_of("split", split, SPLIT_NAMES)
    _one_of("duplicates", duplicates, DUPLICATE_NAMES)
    folder = _find_folder(Path(root), name)
    path = _find_interactions(folder)
    feature_files = _feature_files(folder)
    features = {modality: read_feature(file) for modality, file in feature_files.items()}
    item_ids = _read_mapping(folder / "i_id_mapping.csv")
    sizes = {file: len(features[modality]) for modality, file in feature_files.items()}
    if item_ids is not None:
        sizes = {folder / "i_id_mapping.csv": len(item_ids), **sizes}

    table = read_table(path, names=("userID", "itemID"))
    split_column = _check_columns(table, split)
    split = _resolve(split, split_column)
    notes = [] if features else ["no item features: no file *_features.npy or *_feat.npy"]
    notes += _unread_arrays(folder, feature_files)
    notes += _unused_columns(table, split_column, split)
    user, user_ids = _users(table, _read_mapping(folder / "u_id_mapping.csv"), notes)
    item, item_ids = _items(table, item_ids, sizes, notes)
    rows = _rows(table, user, item, split_column if split == "predefined" else None)
    source = _Source(path, user_ids, item_ids)
    rows, kept_users = _divide(source, rows, split, duplicates, notes)
    source = source._replace(user_ids=user_ids[kept_users])
    train, valid, test = _build(source, rows, notes)
    return Dataset(
        name=name,
        train=train,
        valid=valid,
        test=test,
        features=features,
        user_ids=source.user_ids,
        item_ids=item_ids,
        split=split,
        notes=tuple(notes),
    )


# Folders and options.


def _one_of(option: str, found: str, right: tuple[str, ...]) -> None:
    if found not in right:
        raise InputError(f"{option}: found {found!r}, expected one of {', '.join(right)}")


def _find_folder(root: Path, name: str) -> Path:
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; --data_root or the environment variable FEDVLR_DATA names "
            "the folder of the data sets"
        )
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
            f"{root}: no data set {name!r}; found {', '.join(known) or 'none'}; --data_root or "
            "the environment variable FEDVLR_DATA names another folder"
        )
    return folder


def _interaction_files(folder: Path) -> list[Path]:
    names = ("inter.csv", "inter.tsv", f"{folder.name}.inter")
    paths = [folder / f"{name}{suffix}" for name in names for suffix in _COMPRESSIONS]
    return [path for path in paths if path.exists()]


def _find_interactions(folder: Path) -> Path:
    found = _interaction_files(folder)
    if len(found) != 1:
        # The message names files of other kinds, such as inter.parquet.
        others = sorted(folder.glob("inter.*")) or sorted(folder.glob(f"{folder.name}.*"))
        names = " and ".join(path.name for path in found or others) or "none"
        raise InputError(
            f"{folder}: found {names}, expected exactly one of inter.csv, inter.tsv and "
            f"{folder.name}.inter, which may end in .gz, .bz2 or .xz"
        )
    return found[0]


def _resolve(split: str, split_column: str | None) -> str:
    if split != "auto":
        return split
    return "predefined" if split_column else "leave-one-out"


# The table of interactions.


def _check_columns(table: Table, split: str) -> str | None:
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
    split = _resolve(split, split_column)
    if split != "predefined" and "timestamp" not in columns:
        raise InputError(
            f"{path}, row 1: no column timestamp, which split '{split}' needs; found the columns "
            f"{found}"
        )
    return split_column


def _unused_columns(table: Table, split_column: str | None, split: str) -> list[str]:
    """Notes on the columns that the loader does not use."""
    name, notes = table.path.name, []
    if split != "predefined" and split_column:
        notes.append(f"{name}: column {split_column} is not used, the split is {split}")
    used = {"userID", "itemID", "timestamp", split_column}
    unused = [column for column in table.columns if column not in used]
    if "rating" in unused:
        unused.remove("rating")
        notes.append(
            f"{name}: column rating is not used, all interactions have equal weight; "
            "fedvlr prepare --min_rating=R keeps the rows with at least R"
        )
    if unused:
        listed = ", ".join(column if column.isprintable() else shown(column) for column in unused)
        notes.append(f"{name}: not used: {'columns' if len(unused) > 1 else 'column'} {listed}")
    return notes


def _rows(table: Table, user: np.ndarray, item: np.ndarray, part_column: str | None) -> Rows:
    """The rows of the table; with `part_column`, also the part of each row."""
    time = np.zeros(len(user), np.int64)
    if "timestamp" in table.columns:
        right = "a whole number (time stamp), written out"
        time = table.integers("timestamp", low=-_LAST_TIME, high=_LAST_TIME, right=right)
    part = None
    if part_column:
        right = "0 (train), 1 (valid) or 2 (test)"
        part = table.integers(part_column, low=0, high=2, right=right).astype(np.int8)
    return Rows(place=np.arange(2, len(user) + 2), user=user, item=item, time=time, part=part)


# Ids.


def _items(
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


def _users(
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


def _read_mapping(path: Path) -> np.ndarray | None:
    """Original ids in the order of the dense ones, str [n]; None without a file."""
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
            raise InputError(f"{path}: the modality name 'id' is reserved for the item embedding")
        files[modality] = path
    usual = ("text", "image")
    order = [name for name in usual if name in files]
    return {name: files[name] for name in (*order, *(n for n in files if n not in usual))}


def _unread_arrays(folder: Path, feature_files: dict[str, Path]) -> list[str]:
    """A note for each file that may hold features but is not read."""
    read = {path.name for path in feature_files.values()}
    return [
        f"{path.name} is not read; features are read from <modality>_features.npy, such as "
        f"{path.name.split('.')[0]}_features.npy"
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _ARRAY_SUFFIXES and path.name not in read
    ]


# The split.


def _divide(
    source: _Source, rows: Rows, split: str, duplicates: str, notes: list[str]
) -> tuple[Rows, np.ndarray]:
    """The remaining rows with their parts, and the old numbers of the remaining users.

    Raises:
      InputError: as `divide`; also if a pair repeats and `duplicates` is "error".
    """

    def on_repeat(repeat: Repeat) -> None:
        if duplicates != "error":
            return
        user, item = source.user_ids[repeat.user], source.item_ids[repeat.item]
        raise InputError(
            f"row {repeat.place}, columns userID, itemID: the pair ({shown(user)}, {shown(item)}) "
            "occurs again, expected every pair once in a part; remove it or choose duplicates "
            "'merge'"
        )

    try:
        division = divide(rows, split, source.user_ids, on_repeat)
    except InputError as error:
        separator = "," if str(error).startswith("row ") else ":"
        raise InputError(f"{source.path}{separator} {error}") from error
    name, (users, interactions) = source.path.name, division.dropped
    if users:
        notes.append(
            f"{name}: dropped {users} users without train interactions ({interactions} "
            "interactions)"
        )
    if division.repeat is not None:
        notes.append(
            f"{name}: merged {division.merged} duplicate interactions (user, item); first at line "
            f"{division.repeat.place}"
        )
    for part, lines in division.leaked.items():
        if len(lines):
            notes.append(
                f"{name}: left {len(lines)} {splits.PART_NAMES[part]} targets out that the same "
                f"user has in an earlier part; first at line {lines[0]}"
            )
    return division.rows, division.users


def _build(
    source: _Source, rows: Rows, notes: list[str]
) -> tuple[Interactions, Interactions, Interactions]:
    """Train, valid and test; adds notes on empty parts and cold items.

    Raises:
      InputError: a user has no train interaction.
    """
    num_items = len(source.item_ids)
    train, valid, test = interactions_of(rows, len(source.user_ids), num_items)
    for part_name, part in (("valid", valid), ("test", test)):
        if not len(part):
            notes.append(f"{source.path.name}: the {part_name} part has no interactions")
    without = np.flatnonzero(train.counts == 0)
    if len(without):
        user = int(without[0])
        row = int(rows.place[np.argmax(rows.user == user)])
        raise InputError(
            f"{source.path}, row {row}, column userID: user {shown(source.user_ids[user])} has no "
            "train interaction, expected at least one"
        )
    cold = int((train.item_counts == 0).sum())
    if cold:
        notes.append(f"{source.path.name}: {cold} of {num_items} items have no train interaction")
    return train, valid, test
