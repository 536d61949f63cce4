"""Split rules: pure functions from interactions to the part that each belongs to.

A part is int8: 0 train, 1 valid, 2 test. Interactions are parallel int64 arrays
`user`, `item`, `time` [num_interactions], in file order.
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
      part: the part of each, or None where there are no parts yet.

    Returns:
      keep: bool [num_interactions], true once for every pair of a part: at its earliest
        time and, among equal times, at its first place in the file.
      first: where the first entry that repeats an earlier one stands, in file order;
        None without repeats.
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
    """The places, in `order`, at which a new key begins; `order` sorts by key first."""
    ordered = key[order]
    begins = np.ones(len(key), bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    return order[begins]


def find_leaked(user: np.ndarray, item: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Held-out interactions whose answer the same user already has in an earlier part.

    Returns:
      bool [num_interactions]: a valid item that is also in train, or a test item that is
      also in train or valid.
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
    """The last item of every user is test, the one before it valid, the others train.

    Args:
      user, time: the interactions, [num_interactions], without repeated pairs. Entries
        of equal time stay in file order.
      user_ids: the name of each user, for the message; by default its number.

    Returns:
      int8 [num_interactions]: the part of each.

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
    """Leave-one-out over rows that are in time order already.

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
    """One cut in time for all users, at the 80 % and 90 % quantiles.

    With t1 <= t2 the time stamps at these quantiles: train before t1, valid in [t1, t2),
    test from t2 on. Entries of equal time are never parted.

    Returns:
      int8 [num_interactions]: the part of each.

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
