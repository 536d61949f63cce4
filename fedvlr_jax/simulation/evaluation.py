"""The held-out lists of the chunks of clients, and their results in the order of the data set.

Clients are ranked chunk by chunk. Where the chunks begin is the engine's choice; this module
cuts the held-out items to them, and puts the results of the chunks back in order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.attacks import Hostile
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.pairs import ChunkLists, chunk_lists, in_part_order
from fedvlr_jax.evaluation.exposure import promoted
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.simulation.buckets import in_user_order


class HeldOut(NamedTuple):
    """One of the `Evaluation.parts`, as the chunks of clients of each bucket rank it.

    Attributes:
      targets: the items to rank, a `ChunkLists` per bucket.
      masked: further items that are no candidates, a `ChunkLists` per bucket.
    """

    targets: tuple[ChunkLists, ...]
    masked: tuple[ChunkLists, ...]


class BucketChunks(NamedTuple):
    """How the clients of one bucket are cut into the chunks that one device ranks at once.

    Attributes:
      clients: int64 [R], the user of each row; N in a row of no client.
      bounds: int64 [C + 1], ascending; chunk c holds the rows bounds[c] to bounds[c + 1].
    """

    clients: np.ndarray
    bounds: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The lists that the chunks of clients rank, and the order of their results.

    Attributes:
      buckets: int64 [n_b] each, the user indices of each bucket.
      chunks: how each bucket is cut.
      hostile: the hostile clients; None without them.
    """

    config: Config
    dataset: Dataset
    buckets: tuple[np.ndarray, ...]
    chunks: tuple[BucketChunks, ...]
    hostile: Hostile | None = None

    @functools.cached_property
    def parts(self) -> dict[str, Interactions]:
        """The items to rank: "valid", "test" and, with hostile clients, "promoted"."""
        parts = {"valid": self.dataset.valid, "test": self.dataset.test}
        if self.hostile is not None:
            parts["promoted"] = promoted(self.dataset, self.hostile.targets, self.hostile.first)
        return parts

    @functools.cached_property
    def held_out(self) -> dict[str, HeldOut]:
        """The targets of each of the `parts`, and the masked items beside the histories."""
        valid = self.dataset.valid
        no_pairs = np.zeros((2, 0), np.int64)
        none = Interactions.from_pairs(
            user=no_pairs[0], item=no_pairs[1], num_users=valid.num_users, num_items=valid.num_items
        )
        mask_test = valid if self.config.evaluation.mask == "train+valid" else none
        masks = {"valid": none, "test": mask_test, "promoted": valid}
        targets = zip(*self.lists(*self.parts.values()), strict=True)
        masked = zip(*self.lists(*(masks[split] for split in self.parts)), strict=True)
        splits = zip(self.parts, targets, masked, strict=True)
        return {split: HeldOut(targets, masked) for split, targets, masked in splits}

    def lists(self, *parts: Interactions) -> list[list[ChunkLists]]:
        """The lists of the chunks of each bucket, one `ChunkLists` per part."""
        return [chunk_lists(parts, *bucket) for bucket in self.chunks]

    def owned(self) -> list[ChunkLists]:
        """By bucket, the validation items, which `recommend` leaves out."""
        return [lists for (lists,) in self.lists(self.dataset.valid)]

    def joined(
        self, split: str, results: Sequence[tuple[Ranks, np.ndarray]]
    ) -> tuple[Ranks, np.ndarray]:
        """The results of the buckets in the order of the data set.

        Args:
          split: a name of `parts`.
          results: one entry per bucket, host arrays: `Ranks` with counts [C, Q] as in the lists and
            `finite` [R], and the router's weights [R, G].

        Returns:
          `Ranks` (ahead, tied int32 [P] in the order of the split, finite bool [N]) and weights
          float32 [N, G].
        """
        ranks, weights = zip(*results, strict=True)
        entries = [lists.entry for lists in self.held_out[split].targets]
        size = len(self.parts[split])
        ahead, tied = (
            in_part_order(entries, [getattr(bucket, name) for bucket in ranks], size)
            for name in ("ahead", "tied")
        )
        finite = in_user_order(self.buckets, [bucket.finite for bucket in ranks])
        return Ranks(ahead, tied, finite), in_user_order(self.buckets, weights)
