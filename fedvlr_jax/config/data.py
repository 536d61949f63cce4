"""The data set and its split."""

from __future__ import annotations

import dataclasses
import os

from fedvlr_jax.config.fields import check_fields, check_range, choice

SPLIT_NAMES = ("auto", "predefined", "leave-one-out", "global-time")
DUPLICATE_NAMES = ("merge", "error")
SYNTHETIC_KINDS = ("planted", "additive", "equal", "no-content")
DATA_ROOT = os.environ.get("FEDVLR_DATA") or "data"
# Flags of controls, with a seed each: they permute what should help, and 0 permutes nothing.
PERMUTATIONS = ("permute_features", "permute_order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set and its split."""

    dataset: str = choice(
        "synthetic",
        "Name of the data set: a folder in --data_root. 'synthetic' is the embedded data.",
    )
    data_root: str = choice(
        DATA_ROOT,
        "Folder of the data sets. The environment variable FEDVLR_DATA sets the default.",
        resumable=True,
        path=True,
    )
    split: str = choice(
        "auto",
        "Split rule. 'auto' uses the file's split column; without one, leave-one-out.",
        SPLIT_NAMES,
    )
    duplicates: str = choice(
        "merge",
        "Treatment of repeated interactions of a user with an item. merge: the reader keeps the "
        "earliest; error: it refuses the file.",
        DUPLICATE_NAMES,
    )
    recency: float = choice(
        0.0,
        "Decay of the weight of older items in a client's history. 0: all items have weight 1. "
        "Otherwise an item that has a newer items after it has weight (1 + a)^-recency, scaled to "
        "a mean of 1. The loss, the pooled history and --init=spectral use these weights.",
    )
    permute_features: int = choice(
        0,
        "Shuffles the feature rows with this seed (0: off). A control: a gain that remains with "
        "shuffled features does not come from content.",
    )
    permute_order: int = choice(
        0,
        "Shuffles the times of each user's train items with this seed (0: off). A control: a gain "
        "that remains with shuffled times does not come from their order.",
    )
    synthetic_kind: str = choice(
        "planted",
        "Kind of synthetic data. planted: each user has weights for id, text and image, drawn by "
        "clusters; additive: the same weights without clusters; equal: all users have the same "
        "weights; no-content: the features carry no information.",
        SYNTHETIC_KINDS,
    )
    synthetic_users: int = choice(1000, "Number of users of the synthetic data.")
    synthetic_items: int = choice(2000, "Number of items of the synthetic data.")
    synthetic_seed: int = choice(0, "Seed of the synthetic data, independent of --seed.")

    def __post_init__(self) -> None:
        check_fields(self)
        for name in (*PERMUTATIONS, "synthetic_users", "synthetic_items", "synthetic_seed"):
            check_range(self, name, 0)
        check_range(self, "recency", 0, 2)
