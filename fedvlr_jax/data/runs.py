"""Histories from the oldest item to the newest, for all users at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import sparse

from fedvlr_jax.data.dataset import Interactions


class Runs(NamedTuple):
    """The items of one time of some users: a run of each.

    Attributes:
      users: [R].
      items: float64 CSR [R, I], 1 for each item of the run.
      length: float64 [R, 1], the number of these items.
    """

    users: np.ndarray
    items: sparse.csr_array
    length: np.ndarray


def runs_in_order(train: Interactions) -> Iterator[Runs]:
    """First the oldest run of every user, then the second of all that have one, and so on."""
    order = train.oldest_first
    user, time = train.users[order], train.time[order]
    starts = np.ones(len(user), bool)
    starts[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
    owner = user[starts]
    # The number of a run among those of its user.
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    by_place = np.argsort(place, kind="stable")
    row_of_run = np.empty_like(by_place)
    row_of_run[by_place] = np.arange(len(owner))
    row = row_of_run[np.cumsum(starts) - 1]
    items = sparse.csr_array(
        (np.ones(len(row)), (row, train.item[order])), shape=(len(owner), train.num_items)
    )
    length = np.diff(items.indptr)[:, None].astype(np.float64)
    ends = np.cumsum(np.bincount(place))
    for first, end in zip(np.append(0, ends), ends, strict=False):
        yield Runs(owner[by_place[first:end]], items[first:end], length[first:end])
