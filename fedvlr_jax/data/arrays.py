"""A `Dataset` from arrays or a data frame, without a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.files import shown
from fedvlr_jax.errors import InputError

SPLITS = ("leave-one-out", "global-time", "predefined")


class _Rows(NamedTuple):
    """Interactions, int64 [n] each; `part` int8 [n], `place` where they were given."""

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    part: np.ndarray
    place: np.ndarray

    def where(self, keep: np.ndarray) -> _Rows:
        return _Rows(*(column[keep] for column in self))


def from_arrays(
    *,
    user: Any,
    item: Any,
    time: Any = None,
    part: Any = None,
    split: str | None = None,
    features: Mapping[str, np.ndarray] | None = None,
    item_ids: Sequence[Any] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Builds and splits a data set.

    Args:
      user, item: ids of any kind, [n]. Equal ids are one user or item.
      time: whole numbers or datetime64, [n]; None: the order of the entries.
      part: 0 train, 1 valid or 2 test, [n]; only with the split "predefined".
      split: "leave-one-out", "global-time" or "predefined"; None: "predefined" with `part` and
        "leave-one-out" without.
      features: modality -> float [num_items, width], in the order of `item_ids`.
      item_ids: the catalogue, [num_items]. None: the items in the order of their first
        appearance, or, with features and items that are whole numbers, the features' rows.
      name: what reports call the data set.

    Returns:
      The data set. A pair that occurs several times in a part is merged into its earliest entry;
      `notes` says what was merged, left out or dropped.

    Raises:
      InputError: names the argument, the place, what was found and what would be right.
    """
    features = {key: _feature(key, value) for key, value in (features or {}).items()}
    user, item = _column("user", user), _column("item", item)
    count = len(user)
    if not count:
        raise InputError("user: empty, expected at least one interaction")
    for label, column in (("item", item), ("time", time), ("part", part)):
        if column is not None and len(column) != count:
            raise InputError(f"{label}: has {len(column)} entries, expected {count}, as user has")
    split = split or ("leave-one-out" if part is None else "predefined")
    if split not in SPLITS:
        raise InputError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
    if (split == "predefined") != (part is not None):
        raise InputError(
            f"part: is needed with the split 'predefined' alone, the split is {split!r}"
        )
    catalogue = _catalogue(item, item_ids, features)
    user_code, user_ids = pd.factorize(user)
    rows = _Rows(
        user=user_code.astype(np.int64),
        item=_places(item, catalogue),
        time=np.arange(count) if time is None else _times(time),
        part=np.zeros(count, np.int8) if part is None else _parts(part),
        place=np.arange(count),
    )
    notes: list[str] = []
    rows, kept = _split(rows, split, notes)
    train, valid, test = _build(rows, user_ids[kept], len(catalogue))
    return Dataset(
        name=name,
        train=train,
        valid=valid,
        test=test,
        features=features,
        user_ids=np.asarray(user_ids[kept]).astype(str),
        item_ids=np.asarray(catalogue).astype(str),
        split=split,
        notes=tuple(notes),
    )


def from_frame(
    frame: Any,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = "timestamp",
    part: str | None = None,
    **options: Any,
) -> Dataset:
    """`from_arrays` of the columns of a data frame, such as one of pandas or polars.

    Args:
      frame: what gives a column for `frame[name]`.
      user, item, time, part: names of its columns; None for no time or part.
      options: the other arguments of `from_arrays`.

    Raises:
      InputError: there is no such column; and as `from_arrays`.
    """
    columns = {"user": user, "item": item, "time": time, "part": part}
    for role, column in columns.items():
        if column is not None and column not in frame.columns:
            raise InputError(
                f"{role}: the frame has no column {column!r}; it has "
                f"{', '.join(map(str, frame.columns))[:200]}"
            )
    arrays: dict[str, Any] = {
        role: np.asarray(frame[c]) for role, c in columns.items() if c is not None
    }
    return from_arrays(**arrays, **options)


def _column(label: str, values: Any) -> np.ndarray:
    """The ids as an array without missing ones."""
    column = np.asarray(values)
    if column.ndim != 1:
        raise InputError(f"{label}: has the shape {column.shape}, expected one dimension")
    missing = np.asarray(pd.isna(column))
    if missing.any():
        raise InputError(f"{label}[{int(missing.argmax())}]: found a missing value, expected an id")
    return column


def _feature(modality: str, values: Any) -> np.ndarray:
    feature = np.ascontiguousarray(values, np.float32)
    if modality == "id" or feature.ndim != 2 or not feature.size:
        raise InputError(
            f"features[{modality!r}]: has the shape {feature.shape}, expected (items, width) and "
            "a name other than 'id'"
        )
    wrong = np.flatnonzero(~np.isfinite(feature).all(axis=1))
    if len(wrong):
        raise InputError(f"features[{modality!r}][{wrong[0]}]: is not finite, expected numbers")
    return feature


def _catalogue(
    item: np.ndarray, item_ids: Sequence[Any] | None, features: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The ids of all items, in the order of the features' rows."""
    sizes = {modality: len(feature) for modality, feature in features.items()}
    if item_ids is not None:
        catalogue = _column("item_ids", item_ids)
        if pd.Index(catalogue).has_duplicates:
            again = pd.Index(catalogue).duplicated().argmax()
            raise InputError(f"item_ids[{again}]: {shown(catalogue[again])} occurs again")
        sizes = {"item_ids": len(catalogue), **sizes}
    elif features and item.dtype.kind in "iu":
        catalogue = np.arange(next(iter(sizes.values())))
    elif features:
        raise InputError(
            "item_ids: needed with features, for it says which row is which item; give the ids in "
            "the order of the rows"
        )
    else:
        catalogue = pd.unique(item)
    for label, size in sizes.items():
        if size != len(catalogue):
            raise InputError(f"{label}: has {size} rows, expected {len(catalogue)}, one an item")
    return catalogue


def _places(item: np.ndarray, catalogue: np.ndarray) -> np.ndarray:
    places = pd.Index(catalogue).get_indexer(item)
    if (places < 0).any():
        wrong = int((places < 0).argmax())
        raise InputError(
            f"item[{wrong}]: found {shown(item[wrong])}, expected one of the {len(catalogue)} items"
        )
    return places.astype(np.int64)


def _times(values: Any) -> np.ndarray:
    """int64 [n]; whole numbers, never rounded."""
    column = np.asarray(values)
    if column.dtype.kind == "M":
        missing = np.isnat(column)
        if missing.any():
            raise InputError(f"time[{int(missing.argmax())}]: found a missing time")
        return column.astype(np.int64)
    if column.dtype.kind in "iu":
        return column.astype(np.int64)
    if column.dtype.kind != "f":
        raise InputError(f"time: has the type {column.dtype}, expected whole numbers or datetime64")
    whole = np.isfinite(column) & (np.floor(column) == column) & (np.abs(column) < 2**53)
    if not whole.all():
        wrong = int(np.argmin(whole))
        raise InputError(f"time[{wrong}]: found {shown(column[wrong])}, expected a whole number")
    return column.astype(np.int64)


def _parts(values: Any) -> np.ndarray:
    column = np.asarray(values)
    known = np.isin(column, (splits.TRAIN, splits.VALID, splits.TEST))
    if not known.all():
        wrong = int(np.argmin(known))
        right = "0 (train), 1 (valid) or 2 (test)"
        raise InputError(f"part[{wrong}]: found {shown(column[wrong])}, expected {right}")
    return column.astype(np.int8)


def _split(rows: _Rows, split: str, notes: list[str]) -> tuple[_Rows, np.ndarray]:
    """The rows that stay with their parts, users numbered anew; the old numbers that stay."""
    if split == "leave-one-out":
        rows = _merged(rows, notes)
        rows = rows._replace(part=splits.leave_one_out(rows.user, rows.time))
    elif split == "global-time":
        rows = rows._replace(part=splits.global_time(rows.time))
    kept = np.unique(rows.user)
    if split == "global-time":
        kept = np.unique(rows.user[rows.part == splits.TRAIN])
        stays = np.isin(rows.user, kept)
        if not stays.all():
            dropped = len(np.unique(rows.user[~stays]))
            notes.append(f"dropped {dropped} users without train interactions")
        rows = rows.where(stays)
    rows = _merged(rows, notes)
    leaked = splits.find_leaked(rows.user, rows.item, rows.part)
    if leaked.any():
        notes.append(
            f"left {int(leaked.sum())} targets out that the same user has in an earlier part"
        )
    rows = rows.where(~leaked)
    return rows._replace(user=np.searchsorted(kept, rows.user)), kept


def _merged(rows: _Rows, notes: list[str]) -> _Rows:
    keep, first = splits.find_repeats(rows.user, rows.item, rows.time, rows.part)
    if first is None:
        return rows
    notes.append(
        f"merged {int((~keep).sum())} duplicate interactions (user, item); first at place "
        f"{rows.place[first]}"
    )
    return rows.where(keep)


def _build(rows: _Rows, user_ids: Any, num_items: int) -> tuple[Interactions, ...]:
    """Train, valid and test."""
    parts = tuple(
        Interactions.from_pairs(
            user=rows.user[rows.part == part],
            item=rows.item[rows.part == part],
            time=rows.time[rows.part == part],
            num_users=len(user_ids),
            num_items=num_items,
        )
        for part in (splits.TRAIN, splits.VALID, splits.TEST)
    )
    without = np.flatnonzero(parts[0].counts == 0)
    if len(without):
        raise InputError(
            f"user {shown(user_ids[without[0]])}: has no train interaction, expected at least one"
        )
    return parts
