"""What a data set is: interactions, item features, a split, and the original ids.

Everything here lives on the host as NumPy arrays and is never changed after it was
built. Loaders (one file each, beside this one) build a `Dataset`; everything else in
the project reads it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interactions:
    """Who interacted with what, as compressed rows (CSR): one row a user.

    Attributes:
      indptr: int64 [num_users + 1]; user u owns the slice indptr[u]:indptr[u + 1].
      item: int32 [num_interactions]; ascending and without repetition within a user.
      time: int64 [num_interactions]; the time stamp of each entry (0 where unknown).
      num_items: size of the catalogue; every item is in [0, num_items).
      weight: float32 [num_interactions], how much an entry counts in its user's history,
        above 0 and 1 on average over a history; None where all count alike.
    """

    indptr: np.ndarray
    item: np.ndarray
    time: np.ndarray
    num_items: int
    weight: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def counts(self) -> np.ndarray:
        """int64 [num_users]: how many items each user has."""
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
        """int64 [num_items]: how many users have each item."""
        return np.bincount(self.item, minlength=self.num_items)

    @property
    def matrix(self) -> sparse.csr_array:
        """float64 [num_users, num_items]: 1 where the user has the item."""
        return self._matrix_of(np.ones(len(self)))

    @property
    def weighted_matrix(self) -> sparse.csr_array:
        """float64 [num_users, num_items]: the entry's `weight` where the user has the item."""
        return self.matrix if self.weight is None else self._matrix_of(self.weight.astype(float))

    def _matrix_of(self, values: np.ndarray) -> sparse.csr_array:
        shape = (self.num_users, self.num_items)
        return sparse.csr_array((values, self.item, self.indptr), shape=shape)

    def weighted_by_recency(self, recency: float) -> Interactions:
        """The same entries, each with the weight (1 + a)^-recency over its user's mean.

        a is the number of the user's entries that are newer; entries of equal time share the
        mean of their places.
        """
        # By user, and within a user from the newest on; a tie is a run of equal times.
        order = np.lexsort((-self.time, self.users))
        user, time = self.users[order], self.time[order]
        begins = np.ones(len(self), bool)
        begins[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1])
        run = np.cumsum(begins) - 1
        newer = np.arange(len(self)) - self.indptr[user]
        age = np.empty(len(self))
        age[order] = (np.bincount(run, newer) / np.bincount(run))[run]
        weight = (1 + age) ** -recency
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
        """Builds the rows from (user, item) pairs in any order.

        A pair that occurs several times is kept once, with its earliest time.
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
      name: what reports call it.
      train, valid, test: the parts of the split, over the same users and items. Every
        user has at least one train item. A held-out item that the same user also has
        in train (or, for test, in valid) was left out by the loader.
      features: modality name -> float32 [num_items, width]; the frozen embeddings of
        the server. Usual names are "text" and "image"; widths differ; may be empty.
      user_ids, item_ids: the original ids, as strings, [num_users] and [num_items].
      split: "predefined", "leave-one-out" or "global-time".
      notes: one line for everything that the loader changed or noticed.
      planted: synthetic data only: float32 [num_users, 1 + num_modalities], the true
        weights of every user over ("id", *features), rows sum to one.
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
        """A data set from ids, times and features in memory; see `arrays.from_arrays`."""
        from fedvlr_jax.data.arrays import from_arrays

        return from_arrays(**arrays)

    @classmethod
    def from_frame(cls, frame: Any, **columns: Any) -> Dataset:
        """A data set from a data frame of pandas or polars; see `arrays.from_frame`."""
        from fedvlr_jax.data.arrays import from_frame

        return from_frame(frame, **columns)

    @property
    def num_users(self) -> int:
        return self.train.num_users

    @property
    def num_items(self) -> int:
        return self.train.num_items

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the split and the features: equal data, equal fingerprint."""
        digest = hashlib.sha256()
        for part in (self.train, self.valid, self.test):
            for array in (part.indptr, part.item):
                digest.update(np.ascontiguousarray(array).tobytes())
        if self.train.weight is not None:
            digest.update(self.train.weight.tobytes())
        if not self.features:
            # Where there are features, their shapes tell.
            digest.update(f"{self.num_items} items".encode())
        for modality in sorted(self.features):
            feature = self.features[modality]
            digest.update(f"{modality}{feature.shape}".encode())
            digest.update(np.ascontiguousarray(feature).tobytes())
        return digest.hexdigest()
