"""Reads the layout of MMRec, common in the field: one folder for each data set.

    <root>/<name>/inter.csv             or inter.tsv or <name>.inter; may end in .gz, .bz2 or .xz
    <root>/<name>/<modality>_features.npy    or <modality>_feat.npy; optional
    <root>/<name>/i_id_mapping.csv      original item id, dense id; optional
    <root>/<name>/u_id_mapping.csv      original user id, dense id; optional

With features or i_id_mapping.csv, an item id is a row number of these files. Without them, an item
id is a name, and the catalogue is the items that occur. The same holds for users and
u_id_mapping.csv, but users without interactions are left out.

`tables.py` and `feature_files.py` check all input. Every fault is an `InputError` of one line.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedvlr_jax.config import DUPLICATE_NAMES, SPLIT_NAMES
from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.division import Repeat, Rows, divide, interactions_of
from fedvlr_jax.data.faults import shown
from fedvlr_jax.data.feature_files import read_feature
from fedvlr_jax.data.mmrec_folder import (
    feature_files,
    find_folder,
    find_interactions,
    prepared_rating,
    unread_arrays,
)
from fedvlr_jax.data.mmrec_table import (
    check_columns,
    items_of,
    read_mapping,
    resolve_split,
    rows_of,
    unused_columns,
    users_of,
)
from fedvlr_jax.data.tables import read_table
from fedvlr_jax.errors import InputError


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
    folder = find_folder(Path(root), name)
    path = find_interactions(folder)
    feature_paths = feature_files(folder)
    features = {modality: read_feature(file) for modality, file in feature_paths.items()}
    item_ids = read_mapping(folder / "i_id_mapping.csv")
    sizes = {file: len(features[modality]) for modality, file in feature_paths.items()}
    if item_ids is not None:
        sizes = {folder / "i_id_mapping.csv": len(item_ids), **sizes}

    table = read_table(path, names=("userID", "itemID"))
    split_column = check_columns(table, split)
    split = resolve_split(split, split_column)
    notes = [] if features else ["no item features: no file *_features.npy or *_feat.npy"]
    notes += unread_arrays(folder, feature_paths)
    notes += unused_columns(table, split_column, split, prepared_rating(folder))
    user, user_ids = users_of(table, read_mapping(folder / "u_id_mapping.csv"), notes)
    item, item_ids = items_of(table, item_ids, sizes, notes)
    rows = rows_of(table, user, item, split_column if split == "predefined" else None)
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


def _one_of(option: str, found: str, right: tuple[str, ...]) -> None:
    if found not in right:
        raise InputError(f"{option}: found {found!r}, expected one of {', '.join(right)}")


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
        separator = "," if error.line.startswith("row ") else ":"
        raise InputError(f"{source.path}{separator} {error.line}") from error
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
