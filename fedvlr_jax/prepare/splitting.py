"""The split column, and the recipe that made the data released with the paper."""

from __future__ import annotations

import dataclasses

import numpy as np

from fedvlr_jax.data import splits
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.rows import Rows, gather

# Quantiles of the time stamps at which the recipe splits.
_CUTS = (0.8, 0.9)


def split_rows(rows: Rows, split: str) -> tuple[Rows, np.ndarray | None]:
    """The remaining rows, and the part of each, int8 [n]; None for the split "none".

    "global-time" drops users without train interactions.

    Raises:
      InputError: the rows have no times, a user has too few interactions, or a part is empty.
    """
    if split == "none":
        return rows, None
    if rows.time is None:
        raise InputError(f"--split={split}: the file has no times; name their column with --time")
    if split == "leave-one-out":
        short = np.flatnonzero((rows.user_counts > 0) & (rows.user_counts < 3))
        if len(short):
            name = rows.user_ids[int(short[0])]
            raise InputError(
                f"--split={split}: {len(short)} users have fewer than 3 interactions, the first "
                f"is {name!r} with {rows.user_counts[short[0]]}; give --min_user_interactions=3"
            )
        return rows, splits.leave_one_out(rows.user, rows.time)
    try:
        part = splits.global_time(rows.time)
    except InputError as error:
        raise InputError(f"--split={split}: {error.line}") from error
    trained = np.zeros(len(rows.user_ids), bool)
    trained[rows.user[part == splits.TRAIN]] = True
    keep = gather(trained, rows.user)
    kept = part[keep]
    empty = [name for number, name in enumerate(splits.PART_NAMES) if not (kept == number).any()]
    if empty:
        without = np.count_nonzero((rows.user_counts > 0) & ~trained)
        raise InputError(
            f"--split={split}: without the {without} users who have no train interaction, the "
            f"{empty[0]} part is empty; give --split=leave-one-out"
        )
    return rows.only(keep), kept


def mmrec_recipe(rows: Rows) -> Rows:
    """The rows after MMRec's preprocessing, as in the data released with the paper.

    MMRec splits the interactions at quantiles of time and concatenates the parts. Each part
    includes its bounds, so a row exactly at a bound occurs twice. The released KU has five such
    rows, all at the 0.8 quantile. The rows are sorted by user and time.

    Raises:
      InputError: the rows have no times.
    """
    if rows.time is None:
        raise InputError("--recipe=mmrec: the file has no times; name their column with --time")
    bounds = np.quantile(rows.time, _CUTS)
    times = 1 + np.isin(rows.time, bounds).astype(np.int64)
    order = np.lexsort((np.arange(len(rows)), rows.time, rows.user))
    place = np.repeat(order, times[order])
    rating = None if rows.rating is None else rows.rating[place]
    return dataclasses.replace(
        rows, user=rows.user[place], item=rows.item[place], rating=rating, time=rows.time[place]
    )
