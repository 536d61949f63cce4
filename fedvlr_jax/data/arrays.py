"""Builds a `Dataset` from arrays or a data frame."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.division import Division, Rows, divide, interactions_of
from fedvlr_jax.data.faults import shown
from fedvlr_jax.data.feature_files import FEATURE_RANGE, check_modality, usable_features
from fedvlr_jax.errors import InputError

SPLITS = ("leave-one-out", "global-time", "predefined")


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
      user, item: ids, [n]: texts or whole numbers (also as floats). Equal ids are one user or item.
      time: whole numbers, datetime64 or dates of pandas, [n]; None: the order of the entries.
      part: 0 train, 1 valid or 2 test, [n]; only with the split "predefined".
      split: "leave-one-out", "global-time" or "predefined"; None: "predefined" with `part` and
        "leave-one-out" without.
      features: modality -> float [num_items, width], in the order of `item_ids`.
      item_ids: the catalogue, [num_items]. None with features: items are row numbers of the
        features. None without features: the items in order of first appearance.
      name: the name of the data set in reports.

    Returns:
      The data set. Equal pairs of a part are merged into the earliest entry. `notes` counts the
      merged, left out and dropped entries.

    Raises:
      InputError: the message names the argument, the index, the value found and the value expected.
    """
    if not isinstance(features, Mapping | None):
        raise InputError(
            f"features: found {type(features).__name__}, expected a mapping such as "
            "{'text': rows}"
        )
    features = {key: _feature(key, value) for key, value in (features or {}).items()}
    user, item = _column("user", user), _column("item", item)
    count = len(user)
    if not count:
        raise InputError("user: empty, expected at least one interaction")
    for label, column in (("item", item), ("time", time), ("part", part)):
        if column is not None and len(column) != count:
            raise InputError(f"{label}: has {len(column)} entries, expected {count}, as `user` has")
    split = split or ("leave-one-out" if part is None else "predefined")
    if split not in SPLITS:
        raise InputError(f"split: found {split!r}, expected one of {', '.join(SPLITS)}")
    if (split == "predefined") != (part is not None):
        raise InputError(
            f"part: must be given for the split 'predefined' and only for it, found split {split!r}"
        )
    catalogue = _catalogue(item, item_ids, features)
    user_code, user_ids = pd.factorize(user)
    _check_distinct("user", user_ids)
    _check_distinct("item", catalogue)
    rows = Rows(
        place=np.arange(count),
        user=user_code.astype(np.int64),
        item=_places(item, catalogue),
        time=np.arange(count) if time is None else _times(time),
        part=None if part is None else _parts(part),
    )
    division = divide(rows, split, np.asarray(user_ids))
    user_ids = user_ids[division.users]
    train, valid, test = interactions_of(division.rows, len(user_ids), len(catalogue))
    without = np.flatnonzero(train.counts == 0)
    if len(without):
        raise InputError(
            f"user {shown(user_ids[without[0]])}: has no train interaction, expected at least one"
        )
    return Dataset(
        name=name,
        train=train,
        valid=valid,
        test=test,
        features=features,
        user_ids=np.asarray(user_ids).astype(str),
        item_ids=np.asarray(catalogue).astype(str),
        split=split,
        notes=_notes(division),
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
    """`from_arrays` for the columns of a data frame, for example of pandas or polars.

    Args:
      frame: a data frame with `frame.columns` and `frame[name]`.
      user, item, time, part: the names of its columns; None: no time or part.
      options: the other arguments of `from_arrays`.

    Returns:
      The data set. `notes` also names the columns that are not used, such as ratings.

    Raises:
      InputError: a named column is missing; and as `from_arrays`.
    """
    if not hasattr(frame, "columns"):
        raise InputError(
            f"frame: found {type(frame).__name__}, expected a data frame, such as "
            "pandas.DataFrame(...); or use from_arrays"
        )
    columns = {"user": user, "item": item, "time": time, "part": part}
    for role, column in columns.items():
        if column is not None and column not in frame.columns:
            without = ", or time=None to use the order of the rows" if role == "time" else ""
            raise InputError(
                f"{role}: the frame has no column {column!r}; it has "
                f"{', '.join(map(str, frame.columns))[:200]}; give {role}=NAME{without}"
            )
    arrays = {role: frame[column] for role, column in columns.items() if column is not None}
    dataset = from_arrays(**arrays, **options)
    unused = [str(column) for column in frame.columns if column not in columns.values()]
    if not unused:
        return dataset
    note = f"columns not used: {', '.join(unused)[:200]}; all interactions have equal weight"
    return dataclasses.replace(dataset, notes=(note, *dataset.notes))


def _column(label: str, values: Any) -> np.ndarray:
    """The ids as an array of one dimension; refuses missing values and fractions.

    Whole floats become whole numbers: pandas makes floats of whole numbers beside missing values.
    """
    column = _one_dimension(label, values)
    missing = np.asarray(pd.isna(column))
    if missing.any():
        raise InputError(f"{label}[{int(missing.argmax())}]: found a missing value, expected an id")
    if column.dtype.kind != "f":
        return column
    wrong = ~_whole(column)
    if wrong.any():
        place = int(wrong.argmax())
        raise InputError(
            f"{label}[{place}]: found {shown(column[place])}, expected a text or a whole number"
        )
    return column.astype(np.int64)


def _one_dimension(label: str, values: Any) -> np.ndarray:
    column = np.asarray(values)
    if column.ndim != 1:
        raise InputError(f"{label}: has the shape {column.shape}, expected one dimension")
    return column


def _whole(column: np.ndarray) -> np.ndarray:
    """bool [n]: the floats that are whole numbers and not rounded."""
    rounded_from = 2.0 ** min(53, np.finfo(column.dtype).nmant + 1)
    return np.isfinite(column) & (np.floor(column) == column) & (np.abs(column) < rounded_from)


def _check_distinct(label: str, ids: np.ndarray) -> None:
    """Refuses different ids with the same text, such as 7 and "7"."""
    texts = pd.Index(np.asarray(ids).astype(str))
    if texts.has_duplicates:
        again = texts[texts.duplicated()][0]
        same = " and ".join(repr(i) for i in np.asarray(ids)[texts == again].tolist())
        raise InputError(f"{label}: found the ids {same}, which have the same text; use one type")


def _feature(modality: str, values: Any) -> np.ndarray:
    check_modality(f"features[{modality!r}]", modality)
    try:
        with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            feature = np.ascontiguousarray(values, np.float32)
    except (TypeError, ValueError, np.exceptions.ComplexWarning) as error:
        raise InputError(
            f"features[{modality!r}]: not an array of numbers ({error}); titles become rows by "
            "fedvlr_jax.encoding.hashed_rows"
        ) from error
    if feature.ndim != 2 or not feature.size:
        raise InputError(
            f"features[{modality!r}]: has the shape {feature.shape}, expected (items, width)"
        )
    wrong = np.argwhere(~usable_features(feature))
    if len(wrong):
        row, column = map(int, wrong[0])
        raise InputError(
            f"features[{modality!r}][{row}]: found {feature[row, column]:g}, expected "
            f"{FEATURE_RANGE}"
        )
    return feature


def _catalogue(
    item: np.ndarray, item_ids: Sequence[Any] | None, features: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The ids of all items, in the order of the rows of the features."""
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
            "item_ids: needed with features and item ids that are not whole numbers; give the ids "
            "of the items in the order of the rows"
        )
    else:
        catalogue = pd.unique(item)
    for label, size in sizes.items():
        if size != len(catalogue):
            raise InputError(
                f"{label}: has {size} rows, expected {len(catalogue)}, one for each item"
            )
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
    """int64 [n]; refuses numbers that are not whole, and never rounds."""
    if isinstance(getattr(values, "dtype", None), pd.DatetimeTZDtype):
        values = pd.Series(values).dt.tz_convert(None)
    column = _one_dimension("time", values)
    if column.dtype.kind == "M":
        missing = np.isnat(column)
        if missing.any():
            raise InputError(f"time[{int(missing.argmax())}]: found a missing time")
        return column.astype(np.int64)
    if column.dtype.kind in "iu":
        too_large = column > np.iinfo(np.int64).max
        if too_large.any():
            place = int(too_large.argmax())
            raise InputError(
                f"time[{place}]: found {shown(column[place])}, expected a number below 2**63"
            )
        return column.astype(np.int64)
    if column.dtype.kind != "f":
        raise InputError(
            f"time: has the type {column.dtype}, expected whole numbers or datetime64; "
            "pandas.to_datetime converts dates"
        )
    whole = _whole(column)
    if not whole.all():
        wrong = int(np.argmin(whole))
        raise InputError(
            f"time[{wrong}]: found {shown(column[wrong])}, expected a whole number that "
            f"{column.dtype} does not round"
        )
    return column.astype(np.int64)


def _parts(values: Any) -> np.ndarray:
    column = _one_dimension("part", values)
    known = np.isin(column, (splits.TRAIN, splits.VALID, splits.TEST)) & (column.dtype.kind != "b")
    if not known.all():
        wrong = int(np.argmin(known))
        right = "0 (train), 1 (valid) or 2 (test)"
        raise InputError(f"part[{wrong}]: found {shown(column[wrong])}, expected {right}")
    return column.astype(np.int8)


def _notes(division: Division) -> tuple[str, ...]:
    """One line for each kind of entry that was merged or left out."""
    notes = []
    if division.dropped[0]:
        notes.append(f"dropped {division.dropped[0]} users without train interactions")
    if division.repeat is not None:
        notes.append(
            f"merged {division.merged} duplicate interactions (user, item); first at place "
            f"{division.repeat.place}"
        )
    leaked = sum(map(len, division.leaked.values()))
    if leaked:
        notes.append(f"left {leaked} targets out that the same user has in an earlier part")
    return tuple(notes)
