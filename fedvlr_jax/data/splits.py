"""Split rules: pure functions that assign each interaction to a part.

A part is int8: 0 train, 1 valid, 2 test. Interactions are parallel int64 arrays `user`, `item`,
`time` [num_interactions], in file order.
"""

from __future__ import annotations

import numpy as np

from fedvlr_jax.errors import InputError

TRAIN, VALID, TEST = 0, 1, 2
PART_NAMES = ("train", "valid", "test")


def find_repeats(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, part: np.ndarray | None = None
) -> tuple[np.ndarray, int | None]:
    """Finds (user, item) pairs that occur several times in one part.

    Args:
      user, item, time: the interactions, [num_interactions].
      part: the part of each interaction; None treats all as one part.

    Returns:
      keep: bool [num_interactions], True for one entry of each pair in a part: the one with the
        earliest time and, among equal times, the first in file order.
      first: the index of the first entry that repeats an earlier one; None without repeats.
    """
    part = np.zeros(len(user), np.int8) if part is None else part
    place = np.arange(len(user))
    pair = (user * (int(item.max(initial=0)) + 1) + item) * len(PART_NAMES) + part
    keep = np.zeros(len(user), bool)
    keep[_first_of_each(pair, np.lexsort((place, time, pair)))] = True
    if keep.all():
        return keep, None
    seen_first = np.zeros(len(user), bool)
    seen_first[_first_of_each(pair, np.argsort(pair, kind="stable"))] = True
    return keep, int(np.argmin(seen_first))


def _first_of_each(key: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The index of the first entry of each key, in the order `order`, which sorts by key."""
    ordered = key[order]
    is_first = np.ones(len(key), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return order[is_first]


def find_leaked(user: np.ndarray, item: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Finds held-out interactions whose item the same user also has in an earlier part.

    Returns:
      bool [num_interactions]: True for a valid item that is also in train, and for a test item
      that is also in train or valid.
    """
    pair = user * (int(item.max(initial=0)) + 1) + item
    leaked = np.zeros(len(user), bool)
    for held_out in (VALID, TEST):
        chosen = part == held_out
        leaked[chosen] = np.isin(pair[chosen], pair[part < held_out])
    return leaked


def leave_one_out(
    user: np.ndarray, time: np.ndarray, user_ids: np.ndarray | None = None
) -> np.ndarray:
    """Assigns each user's last item to test, the one before it to valid, the others to train.

    Args:
      user, time: the interactions, [num_interactions], without repeated pairs. Entries of equal
        time keep their file order.
      user_ids: the name of each user, for the message; by default its number.

    Returns:
      int8 [num_interactions]: the part of each interaction.

    Raises:
      InputError: a user has fewer than three items.
    """
    users, counts = np.unique(user, return_counts=True)
    if (counts < 3).any():
        short = int(np.argmax(counts < 3))
        name = str(users[short] if user_ids is None else user_ids[users[short]])
        name = name if name.isprintable() and len(name) <= 60 else repr(name[:60])
        raise InputError(
            f"user {name} has {counts[short]} distinct item(s), but leave-one-out needs "
            "at least 3: remove users with fewer, or give a split column or split 'global-time'"
        )
    order = np.lexsort((np.arange(len(user)), time, user))
    part = np.empty(len(user), np.int8)
    part[order] = parts_from_the_end(counts)
    return part


def parts_from_the_end(counts: np.ndarray) -> np.ndarray:
    """Leave-one-out for rows in time order.

    Args:
      counts: [num_users], the number of consecutive entries of each user; all >= 3.

    Returns:
      int8 [counts.sum()]: the part of each entry.
    """
    part = np.full(int(counts.sum()), TRAIN, np.int8)
    ends = np.cumsum(counts)
    part[ends - 2] = VALID
    part[ends - 1] = TEST
    return part


def global_time(time: np.ndarray) -> np.ndarray:
    """Splits all users at the same two times: the 80 % and 90 % quantiles t1 <= t2.

    Train entries are before t1, valid entries in [t1, t2), and test entries at or after t2.
    Entries of equal time are in the same part.

    Returns:
      int8 [num_interactions]: the part of each interaction.

    Raises:
      InputError: a part would be empty because too many time stamps are equal.
    """
    ordered = np.sort(time)
    valid_from, test_from = ordered[len(time) * 8 // 10], ordered[len(time) * 9 // 10]
    part = ((time >= valid_from).astype(np.int8) + (time >= test_from)).astype(np.int8)
    sizes = np.bincount(part, minlength=len(PART_NAMES))
    if (sizes == 0).any():
        empty = PART_NAMES[int(np.argmax(sizes == 0))]
        raise InputError(
            f"column timestamp: the {empty} part of split 'global-time' would be empty, because "
            f"too many of the {len(time)} time stamps are equal; use finer time stamps or "
            "another split"
        )
    return part
