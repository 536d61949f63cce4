"""Exposure rate: how often honest users are recommended the target items of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data.dataset import Dataset


def exposure(
    recommended: np.ndarray,
    targets: Sequence[int] | np.ndarray,
    dataset: Dataset,
    ks: Sequence[int],
) -> dict[str, Any]:
    """ER@K: the fraction of honest users whose K recommended items include a target.

    For each target, the denominator counts the honest users without that target in train or
    validation. The result is the mean over targets. Random recommendations give about K / I.

    Args:
      recommended: int [N, k], best first, k >= max(ks) or all items, without the user's train and
        validation items.
      targets: int [T], the items that the attack promotes.
      ks: the cut-offs.

    Returns:
      {"er@10": fraction in [0, 1], ..., "targets": [item, ...], "users": mean denominator}.
    """
    own = np.zeros((dataset.num_users, len(targets)), bool)
    for part in (dataset.train, dataset.valid):
        for column, target in enumerate(targets):
            own[part.users[part.item == target], column] = True
    counted = ~own
    users = counted.sum(axis=0)
    result: dict[str, Any] = {}
    for k in ks:
        listed = recommended[: dataset.num_users, :k, None] == np.asarray(targets)[None, None, :]
        shown = (listed.any(axis=1) & counted).sum(axis=0)
        result[f"er@{k}"] = float(np.mean(shown / np.maximum(users, 1)))
    return {**result, "targets": [int(t) for t in targets], "users": float(users.mean())}
