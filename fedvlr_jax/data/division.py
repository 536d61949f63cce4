"""Divides rows of interactions into train, valid and test; every loader uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data import splits
from fedvlr_jax.data.dataset import Interactions


class Rows(NamedTuple):
    """Interactions; int64 [n] each.

    Attributes:
      place: the line or index of each row in the input, for messages.
      part: int8 [n], see `splits`; None before a split.
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
    """Rows with their parts, and counts of the rows that were left out.

    Attributes:
      rows: the remaining rows. If users were dropped, the others are renumbered from 0.
      users: int64 [N], the old number of each remaining user, ascending.
      merged: the number of repeated pairs that were merged.
      repeat: the first of them; None without repeats.
      dropped: (number of users, of interactions) dropped because the user has no train interaction.
      leaked: part -> places of the held-out rows left out because the same user has the item in an
        earlier part.
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
    """Assigns parts, merges repeated pairs, drops users without train rows, removes leaks.

    Leave-one-out merges repeats before the split; the other splits merge them within each part.

    Args:
      split: "predefined" (`rows.part` is given), "leave-one-out" or "global-time".
      user_ids: the name of each user, for messages.
      on_repeat: called with the first repeat, before the merge; it may raise.

    Raises:
      InputError: a user has too few items for the split, or a part would be empty.
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
        kept = np.isin(rows.user, users)
        dropped = len(np.unique(rows.user[~kept])), int((~kept).sum())
        rows = rows.where(kept)
    if split != "leave-one-out":
        rows = without_repeats(rows)
    assert rows.part is not None
    leaks = splits.find_leaked(rows.user, rows.item, rows.part)
    leaked = {part: rows.place[leaks & (rows.part == part)] for part in (splits.VALID, splits.TEST)}
    rows = rows.where(~leaks)
    rows = rows._replace(user=np.searchsorted(users, rows.user))
    return Division(rows, users, merged, repeat, dropped, leaked)


def interactions_of(rows: Rows, num_users: int, num_items: int) -> tuple[Interactions, ...]:
    """Train, valid and test, from rows with parts."""
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
