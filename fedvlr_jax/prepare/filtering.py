"""Filters interactions: repeats, low ratings, users and items with few interactions.

Each function returns the remaining rows in their order. It reuses the memory of its argument, so
do not use the argument afterwards. No function sorts all rows.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
from scipy import sparse

from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.rows import Rows, gather

_RANGE_ROWS = 1 << 22
_MOST_RANGES = 255


def without_repeats(rows: Rows, duplicates: str) -> Rows:
    """The rows with every (user, item) pair once.

    Args:
      duplicates: "first" keeps the earliest interaction of a pair, "last" the latest; for equal
        times, the first or the last in the file. "merge" keeps the earliest and gives it the mean
        of the ratings. "keep" keeps all rows.
    """
    if duplicates == "keep":
        return rows
    place = repeated(rows)
    if not len(place):
        return rows
    time = np.zeros(len(place), np.int64) if rows.time is None else rows.time[place]
    order = np.lexsort((place, time, rows.item[place], rows.user[place]))
    ordered = place[order]
    user, item = rows.user[ordered], rows.item[ordered]
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    is_last = np.append(is_first[1:], True)
    kept = ordered[is_last if duplicates == "last" else is_first]
    if duplicates == "merge" and rows.rating is not None:
        run = np.cumsum(is_first) - 1
        mean = np.bincount(run, rows.rating[ordered].astype(float)) / np.bincount(run)
        rating = rows.rating.astype(float)
        rating[kept] = mean
        rows = dataclasses.replace(rows, rating=rating)
    keep = np.ones(len(rows), bool)
    keep[place] = False
    keep[kept] = True
    return rows.only(keep)


def repeated(rows: Rows) -> np.ndarray:
    """int64 [m], ascending: the indices of all rows whose (user, item) pair is repeated."""
    # Divide the users into ranges of about equally many rows, to bound the memory.
    ranges = min(_MOST_RANGES, -(-len(rows) // _RANGE_ROWS))
    before = np.cumsum(rows.user_counts) - rows.user_counts
    range_of_user = (before * ranges // len(rows)).astype(np.uint8)
    range_of_row = gather(range_of_user, rows.user)
    find = lambda number: _repeated_among(rows, np.flatnonzero(range_of_row == number))
    with ThreadPoolExecutor(2) as pool:
        return np.sort(np.concatenate(list(pool.map(find, range(ranges)))))


def _repeated_among(rows: Rows, place: np.ndarray) -> np.ndarray:
    """`repeated` for the rows at `place`: all rows of a range of consecutive users."""
    if not len(place):
        return place
    user, item = rows.user[place], rows.item[place]
    user -= user.min()
    num_items = len(rows.item_ids)
    shape = (int(user.max()) + 1, num_items)
    # The construction of a sparse matrix counts equal pairs in linear time.
    ones = np.ones(len(place), np.int32)
    counts = sparse.coo_array((ones, (user, item)), shape=shape).tocsr()
    if counts.nnz == len(place):
        return place[:0]
    several = counts.tocoo()
    more = several.data > 1
    keys = several.row[more].astype(np.int64) * num_items + several.col[more]
    mine = pl.Series(user.astype(np.int64) * num_items + item)
    return place[mine.is_in(keys).to_numpy()]


def with_rating_from(rows: Rows, min_rating: float) -> Rows:
    """The rows with a rating of at least `min_rating`.

    Raises:
      InputError: the rows have no ratings, or all ratings are lower.
    """
    if rows.rating is None:
        raise InputError(
            f"--min_rating={min_rating:g}: the file has no ratings; name their column with "
            "--rating=NAME or leave --min_rating out"
        )
    keep = rows.rating >= min_rating
    if not keep.any():
        low, high = float(rows.rating.min()), float(rows.rating.max())
        raise InputError(
            f"--min_rating={min_rating:g}: no interaction has such a high rating; the ratings are "
            f"from {low:g} to {high:g}"
        )
    return rows.only(keep)


def of_some_users(rows: Rows, max_users: int, min_interactions: int, seed: int) -> Rows:
    """The rows of at most `max_users` users, drawn from those with enough interactions."""
    candidates = np.flatnonzero(rows.user_counts >= max(1, min_interactions))
    if len(candidates) <= max_users:
        return rows
    drawn = np.zeros(len(rows.user_ids), bool)
    drawn[np.random.default_rng(seed).choice(candidates, max_users, replace=False)] = True
    return rows.only(gather(drawn, rows.user))


def core(rows: Rows, min_user: int, min_item: int) -> Rows:
    """The k-core: the largest subset in which each user and item has enough interactions.

    Raises:
      InputError: no row remains.
    """
    most = int(rows.user_counts.max()), int(rows.item_counts.max())
    while min_user > 1 or min_item > 1:
        few_users = (rows.user_counts > 0) & (rows.user_counts < min_user)
        few_items = (rows.item_counts > 0) & (rows.item_counts < min_item)
        if not (few_users.any() or few_items.any()):
            break
        keep = gather(~few_users, rows.user)
        keep &= gather(~few_items, rows.item)
        rows = rows.only(keep)
        if not len(rows):
            raise InputError(
                f"--min_user_interactions={min_user} --min_item_interactions={min_item}: no row "
                f"remains; a user has at most {most[0]} interactions and an item at most "
                f"{most[1]}; give smaller numbers"
            )
    return rows
