"""From rows of interactions to the three parts of a data set; every loader divides here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Interactions


class Rows(NamedTuple):
    """Interactions, int64 [n] each; `part` is int8 [n], or None before a split.

    Attributes:
      place: where each row stands in what was given, for messages: a line or an index.
    """

    place: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    part: np.ndarray | None

    def where(self, keep: np.ndarray) -> Rows:
        part = None if self.part is None else self.part[keep]
        return Rows(self.place[keep], self.user[keep], self.item[keep], self.time[keep], part)


class Repeat(NamedTuple):
    """The first row that repeats the pair of an earlier one in its part."""

    place: int
    user: int
    item: int


class Division(NamedTuple):
    """Rows with their parts, and what was left out on the way.

    Attributes:
      rows: the rows that stay; users are numbered anew where some were dropped.
      users: the old numbers of the users that stay, ascending.
      merged: how many repeats of a pair were merged; `repeat` is the first of them.
      dropped: (users, interactions) that were dropped, for want of a train interaction.
      leaked: places of the targets that an earlier part of the same user has, by part.
    """

    rows: Rows
    users: np.ndarray
    merged: int
    repeat: Repeat | None
    dropped: tuple[int, int]
    leaked: dict[int, np.ndarray]


def divide(
    rows: Rows,
    split: str,
    user_ids: np.ndarray,
    on_repeat: Callable[[Repeat], None] = lambda repeat: None,
) -> Division:
    """Gives every row its part: merges repeats, drops users without train, leaves out leaks.

    Leave-one-out merges before it splits, the others within each part.

    Args:
      split: "predefined" (`rows.part` is given), "leave-one-out" or "global-time".
      user_ids: the name of each user, for messages.
      on_repeat: called with the first repeat before anything else is done about it.

    Raises:
      InputError: a user is too short for the split, or a part would be empty.
    """
    merged, repeat = 0, None

    def without_repeats(rows: Rows) -> Rows:
        nonlocal merged, repeat
        keep, first = splits.find_repeats(rows.user, rows.item, rows.time, rows.part)
        if first is None:
            return rows
        repeat = Repeat(*(int(column[first]) for column in (rows.place, rows.user, rows.item)))
        on_repeat(repeat)
        merged = int((~keep).sum())
        return rows.where(keep)

    dropped = 0, 0
    if split == "leave-one-out":
        rows = without_repeats(rows)
        rows = rows._replace(part=splits.leave_one_out(rows.user, rows.time, user_ids))
    elif split == "global-time":
        rows = rows._replace(part=splits.global_time(rows.time))
    users = np.unique(rows.user)
    if split == "global-time":
        users = np.unique(rows.user[rows.part == splits.TRAIN])
        stays = np.isin(rows.user, users)
        dropped = len(np.unique(rows.user[~stays])), int((~stays).sum())
        rows = rows.where(stays)
    if split != "leave-one-out":
        rows = without_repeats(rows)
    assert rows.part is not None
    leaks = splits.find_leaked(rows.user, rows.item, rows.part)
    leaked = {part: rows.place[leaks & (rows.part == part)] for part in (splits.VALID, splits.TEST)}
    rows = rows.where(~leaks)
    rows = rows._replace(user=np.searchsorted(users, rows.user))
    return Division(rows, users, merged, repeat, dropped, leaked)


def interactions_of(rows: Rows, num_users: int, num_items: int) -> tuple[Interactions, ...]:
    """Train, valid and test."""
    chosen = [np.asarray(rows.part == part) for part in range(len(splits.PART_NAMES))]
    return tuple(
        Interactions.from_pairs(
            user=rows.user[own],
            item=rows.item[own],
            time=rows.time[own],
            num_users=num_users,
            num_items=num_items,
        )
        for own in chosen
    )
