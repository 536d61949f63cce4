"""How often target items stand in the lists of honest users: the success of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data.dataset import Dataset


def exposure(
    recommended: np.ndarray,
    targets: Sequence[int] | np.ndarray,
    dataset: Dataset,
    honest: int,
    ks: Sequence[int],
) -> dict[str, Any]:
    """ER@K: the share of the honest users whose K best items hold a target.

    Counted are, for each target, the honest users who have it neither in train nor in validation;
    the result is the mean over targets. Chance is about K / I.

    Args:
      recommended: int [N, k], best first, k >= max(ks), of items outside train and validation.
      honest: the number of honest users, who are the first of the data set.

    Returns:
      {"er@10": share in [0, 1], ..., "targets": [item, ...], "users": counted on average}.
    """
    own = np.zeros((honest, len(targets)), bool)
    for part in (dataset.train, dataset.valid):
        for place, target in enumerate(targets):
            users = part.users[part.item == target]
            own[users[users < honest], place] = True
    counted = ~own
    users = counted.sum(axis=0)
    result: dict[str, Any] = {}
    for k in ks:
        listed = recommended[:honest, :k, None] == np.asarray(targets)[None, None, :]
        shown = (listed.any(axis=1) & counted).sum(axis=0)
        result[f"er@{k}"] = float(np.mean(shown / np.maximum(users, 1)))
    return {**result, "targets": [int(t) for t in targets], "users": float(users.mean())}
