"""Exposure rate: how often honest users are recommended the target items of an attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvlr_jax.data.dataset import Dataset, Interactions


def promoted(dataset: Dataset, targets: np.ndarray, num_honest: int) -> Interactions:
    """The pairs of an honest user and a target that is in neither its train nor its validation
    items.

    Args:
      dataset: the population; its first `num_honest` users are honest.
      targets: int [T], the items that the attack promotes.
    """
    missing = np.ones((num_honest, len(targets)), bool)
    for part in (dataset.train, dataset.valid):
        for column, target in enumerate(targets):
            users = part.users[part.item == target]
            missing[users[users < num_honest], column] = False
    honest, place = np.nonzero(missing)
    return Interactions.from_pairs(
        user=honest,
        item=np.asarray(targets)[place],
        num_users=dataset.num_users,
        num_items=dataset.num_items,
    )


def exposure(
    ahead: np.ndarray, tied: np.ndarray, pairs: Interactions, *, ks: Sequence[int]
) -> dict[str, float]:
    """ER@K: the share of honest users with a target among their K best items.

    The users of a target are those of its `pairs`. The result is the mean over the targets that
    have users. A target that ties with t other items takes each of its t + 1 possible ranks with
    equal probability, as in `metrics.user_metrics`; so a constant score and random scores have the
    ER@K of K / (number of candidates).

    Args:
      ahead, tied: int [P], the counts of `Ranks` in the order of `pairs`.
      pairs: the result of `promoted`.
      ks: the cut-offs.

    Returns:
      {"er@10": share in [0, 1], ..., "users": mean over targets}; zeros without pairs.
    """
    size = np.asarray(tied, np.int64) + 1
    _, target = np.unique(pairs.item, return_inverse=True)
    users = np.bincount(target)
    found = {"users": float(np.mean(users)) if len(users) else 0.0}
    for k in ks:
        shown = np.bincount(target, np.clip(k - np.asarray(ahead, np.int64), 0, size) / size)
        found[f"er@{k}"] = float(np.mean(shown / users)) if len(users) else 0.0
    return found
