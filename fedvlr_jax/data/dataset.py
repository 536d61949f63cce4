"""A data set: interactions, item features, a split, and the original ids.

All arrays are NumPy arrays on the host. No code changes them after construction. The loaders in
this folder build a `Dataset`; the other modules only read it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy import sparse

# Users whose entries are sorted at once.
USERS_AT_ONCE = 1 << 14


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interactions:
    """The items of each user, as compressed sparse rows (CSR): one row for each user.

    Attributes:
      indptr: int64 [num_users + 1]; the entries of user u are indptr[u]:indptr[u + 1].
      item: int32 [num_interactions]; ascending within a user, each item at most once.
      time: int64 [num_interactions]; the time stamp of each entry; 0 if unknown.
      num_items: size of the catalogue; every item is in [0, num_items).
      weight: float32 [num_interactions], the weight of each entry in its user's history; positive,
        with mean 1 over each history. None: all entries have weight 1.
    """

    indptr: np.ndarray
    item: np.ndarray
    time: np.ndarray
    num_items: int
    weight: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        """N."""
        return len(self.indptr) - 1

    @property
    def counts(self) -> np.ndarray:
        """int64 [num_users]: the number of items of each user."""
        return np.diff(self.indptr)

    @property
    def users(self) -> np.ndarray:
        """int32 [num_interactions]: the user of each entry."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.counts)

    def of(self, user: int) -> np.ndarray:
        """int32 [count]: the items of one user, ascending."""
        return self.item[self.indptr[user] : self.indptr[user + 1]]

    def of_users(self, users: np.ndarray) -> Interactions:
        """The entries of some users, int [U]: user k of the result is users[k]."""
        counts = self.counts[users]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        entry = np.repeat(self.indptr[users] - indptr[:-1], counts) + np.arange(indptr[-1])
        return dataclasses.replace(
            self,
            indptr=indptr,
            item=self.item[entry],
            time=self.time[entry],
            weight=None if self.weight is None else self.weight[entry],
        )

    @functools.cached_property
    def item_counts(self) -> np.ndarray:
        """int64 [num_items]: the number of users of each item."""
        return np.bincount(self.item, minlength=self.num_items)

    @property
    def matrix(self) -> sparse.csr_array:
        """float64 [num_users, num_items]: 1 if the user has the item, else 0."""
        return self._matrix_of(np.ones(len(self)))

    @property
    def weighted_matrix(self) -> sparse.csr_array:
        """float64 [num_users, num_items]: the `weight` of the entry if the user has the item."""
        return self.matrix if self.weight is None else self._matrix_of(self.weight.astype(float))

    def decayed_matrix(self, decay: float) -> sparse.csr_array:
        """float64 [num_users, num_items]: decay^age of the entry if the user has the item."""
        return self._matrix_of(decay**self.age)

    def _matrix_of(self, values: np.ndarray) -> sparse.csr_array:
        shape = (self.num_users, self.num_items)
        return sparse.csr_array((values, self.item, self.indptr), shape=shape)

    @property
    def has_times(self) -> bool:
        """Whether the times differ; if not, they order nothing."""
        return bool(np.any(self.time != self.time[:1]))

    @property
    def oldest_first(self) -> np.ndarray:
        """int64 [E]: the entries user after user, each user's in order of time.

        Entries of equal time stay in the order of their items.
        """
        return np.lexsort((self.time, self.users))

    @property
    def age(self) -> np.ndarray:
        """float64 [E]: the number of newer entries of the same user.

        Entries of equal time get the mean of their numbers.
        """
        return np.concatenate(list(self.age_by_part()))

    def age_by_part(self) -> Iterator[np.ndarray]:
        """`age`, some users at a time: to sort all users at once takes four times the time, and
        50 bytes for each entry."""
        for first in range(0, max(self.num_users, 1), USERS_AT_ONCE):
            users = np.arange(first, min(first + USERS_AT_ONCE, self.num_users))
            yield self.of_users(users)._sorted_age()

    def _sorted_age(self) -> np.ndarray:
        # Sort by user, then from newest to oldest. A run is a sequence of equal times. ~t is
        # -t - 1; -t of the least int64 would be itself.
        order = np.lexsort((~self.time, self.users))
        user, time = self.users[order], self.time[order]
        is_first = np.ones(len(self), bool)
        is_first[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
        run = np.cumsum(is_first) - 1
        newer = np.arange(len(self)) - self.indptr[user]
        age = np.empty(len(self))
        age[order] = (np.bincount(run, newer) / np.bincount(run))[run]
        return age

    def weighted_by_recency(self, recency: float) -> Interactions:
        """The same entries with weight (1 + age)^-recency, divided by the mean over the user."""
        weight = (1 + self.age) ** -recency
        mean = np.bincount(self.users, weight, self.num_users) / np.maximum(self.counts, 1)
        return dataclasses.replace(self, weight=(weight / mean[self.users]).astype(np.float32))

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def from_pairs(
        cls,
        *,
        user: np.ndarray,
        item: np.ndarray,
        time: np.ndarray | None = None,
        num_users: int,
        num_items: int,
    ) -> Interactions:
        """Builds the rows from (user, item) pairs in any order, [n] each.

        Of equal pairs, the one with the earliest time is kept.
        """
        user = np.asarray(user, np.int64)
        item = np.asarray(item, np.int64)
        time = np.zeros(len(user), np.int64) if time is None else np.asarray(time, np.int64)
        order = np.lexsort((time, item, user))
        pair = (user * num_items + item)[order]
        first = np.ones(len(pair), bool)
        first[1:] = pair[1:] != pair[:-1]
        order = order[first]
        indptr = np.zeros(num_users + 1, np.int64)
        np.cumsum(np.bincount(user[order], minlength=num_users), out=indptr[1:])
        return cls(
            indptr=indptr,
            item=item[order].astype(np.int32),
            time=time[order],
            num_items=num_items,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """A split data set with its frozen item features.

    Attributes:
      name: the name in reports.
      train, valid, test: the parts of the split, over the same users and items. Every user has at
        least one train item. No valid item of a user is also in train, and no test item is also
        in train or valid: the loader leaves such entries out.
      features: modality name -> float32 [num_items, width], the frozen embeddings on the server.
        The usual names are "text" and "image". Widths may differ. May be empty.
      user_ids, item_ids: the original ids, as strings, [num_users] and [num_items].
      split: "predefined", "leave-one-out" or "global-time".
      notes: one line for each change or observation of the loader.
      planted: for synthetic data only: float32 [num_users, 1 + num_modalities], the true weights
        of each user over ("id", *features); each row has sum 1.
    """

    name: str
    train: Interactions
    valid: Interactions
    test: Interactions
    features: Mapping[str, np.ndarray]
    user_ids: np.ndarray
    item_ids: np.ndarray
    split: str
    notes: tuple[str, ...] = ()
    planted: np.ndarray | None = None

    @classmethod
    def from_arrays(cls, **arrays: Any) -> Dataset:
        """A data set from ids, times and features in memory.

        from_arrays(user=, item=, time=None, part=None, split=None, features=None, item_ids=None,
        name="arrays"); `fedvlr_jax.data.arrays.from_arrays` documents the arguments.
        """
        from fedvlr_jax.data.arrays import from_arrays

        return from_arrays(**arrays)

    @classmethod
    def from_frame(cls, frame: Any, **columns: Any) -> Dataset:
        """A data set from a data frame of pandas or polars.

        from_frame(frame, user="user_id", item="item_id", time="timestamp", part=None), and the
        other arguments of `from_arrays`; `fedvlr_jax.data.arrays.from_frame` documents them.
        """
        from fedvlr_jax.data.arrays import from_frame

        return from_frame(frame, **columns)

    @property
    def num_users(self) -> int:
        """N."""
        return self.train.num_users

    @property
    def num_items(self) -> int:
        """I, the size of the catalogue."""
        return self.train.num_items

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the split, the order in time of the train part, and the features.

        Equal data have equal fingerprints, in any unit of time. Training reads the order if it
        weights recent items.
        """
        digest = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            for array in (part.indptr, part.item):
                digest.update(np.ascontiguousarray(array).tobytes())
        for age in self.train.age_by_part():
            digest.update(age.tobytes())
        if self.train.weight is not None:
            digest.update(self.train.weight.tobytes())
        if not self.features:
            # With features, their shapes contain the number of items.
            digest.update(f"{self.num_items} items".encode())
        for modality in sorted(self.features):
            feature = self.features[modality]
            digest.update(f"{modality}{feature.shape}".encode())
            digest.update(np.ascontiguousarray(feature).tobytes())
        return digest.hexdigest()
