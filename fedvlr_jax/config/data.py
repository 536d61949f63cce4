"""Which data, and how it is split."""

from __future__ import annotations

import dataclasses
import os

from fedvlr_jax.config.fields import check_fields, check_range, choice

SPLIT_NAMES = ("auto", "predefined", "leave-one-out", "global-time")
DUPLICATE_NAMES = ("merge", "error")
SYNTHETIC_KINDS = ("planted", "additive", "equal", "no-content")
DATA_ROOT = os.environ.get("FEDVLR_DATA") or "data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and how it is split."""

    dataset: str = choice(
        "synthetic", "Folder below --data_root to read, or 'synthetic' for the embedded data."
    )
    data_root: str = choice(
        DATA_ROOT,
        "Folder that holds the data sets; the environment variable FEDVLR_DATA sets the default.",
        resumable=True,
        path=True,
    )
    split: str = choice(
        "auto",
        "Split rule; 'auto' takes the split column where there is one, else leave-one-out.",
        SPLIT_NAMES,
    )
    duplicates: str = choice("merge", "What to do with repeated interactions.", DUPLICATE_NAMES)
    recency: float = choice(
        0.0,
        "How fast the older items of a client's history lose weight, in its loss, its pooled "
        "history and its vector at --init=spectral: an item with a newer ones counts as "
        "(1 + a)^-recency, scaled to a mean of 1; 0: all count alike.",
    )
    permute_features: int = choice(
        0,
        "Above 0: the rows of all features change places, by this seed. A control: what is gained "
        "with such features is no gain by content.",
    )
    synthetic_kind: str = choice(
        "planted",
        "planted: each user weighs id, text and image, by clusters; additive: the same weights "
        "without clusters; equal: all users weigh alike; no-content: features say nothing.",
        SYNTHETIC_KINDS,
    )
    synthetic_users: int = choice(1000, "Users of the synthetic data.")
    synthetic_items: int = choice(2000, "Items of the synthetic data.")
    synthetic_seed: int = choice(0, "Seed of the synthetic data (apart from the run's seed).")

    def __post_init__(self):
        check_fields(self)
        for name in ("permute_features", "synthetic_users", "synthetic_items", "synthetic_seed"):
            check_range(self, name, 0)
        check_range(self, "recency", 0, 2)
