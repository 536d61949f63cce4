"""Ranking metrics per user, exact under ties, and their averages over slices.

A target that ties with t other items takes each of its t + 1 possible ranks with equal
probability. Every metric is the exact expectation over these ranks, so a constant score and
random scores have equal metrics. All values are float64 and are not rounded before averaging.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln

from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.evaluation.significance import bootstrap_interval
from fedvlr_jax.selection import METRICS

ACTIVITY_GROUPS = ((0, 10), (11, 20), (21, 50), (51, 100), (101, 200), (201, 500), (501, None))


def activity_groups(lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Groups users by history length: "0-10", ..., "501+" -> bool [N], the users in the group.

    Args:
      lengths: int [N], the number of train items of each user.
    """
    return {
        f"{low}+" if high is None else f"{low}-{high}": (lengths >= low)
        & (lengths <= (np.inf if high is None else high))
        for low, high in ACTIVITY_GROUPS
    }


def user_metrics(
    ahead: np.ndarray,
    tied: np.ndarray,
    part: Interactions,
    select: np.ndarray | None = None,
    ks: tuple[int, ...] = (10, 20, 50),
) -> dict[str, np.ndarray]:
    """Metrics of every user, in [0, 1]; NaN for a user without a selected target.

    Args:
      ahead, tied: int [P], one entry for each target in the order of `part`; see `Ranks`.
      part: the held-out part. It gives the user of each target.
      select: bool [P], the targets to use; None uses all targets.
      ks: the cut-offs.

    Returns:
      {"hr@10": float64 [N], ...} for hr, recall, precision, ndcg, mrr and map.
    """
    user = part.users
    ahead, size = np.asarray(ahead, np.int64), np.asarray(tied, np.int64) + 1
    if select is not None:
        user, ahead, size = user[select], ahead[select], size[select]
    count = np.bincount(user, minlength=part.num_users)
    metrics = {f"{name}@{k}": np.full(part.num_users, np.nan) for name in METRICS for k in ks}
    single = count == 1
    is_single = single[user]
    for name, values in _single_target(ahead[is_single], size[is_single], ks).items():
        metrics[name][single] = values
    several = count > 1
    groups = _tie_groups(user[~is_single], ahead[~is_single], size[~is_single])
    for k in ks:
        for name, values in _several_targets(groups, count, k).items():
            metrics[f"{name}@{k}"][several] = values[several]
    return metrics


def _single_target(
    ahead: np.ndarray, size: np.ndarray, ks: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Metrics of users with one target: a member of a tie group of `size` behind `ahead` items."""
    rank = np.arange(1, max(ks) + 1)
    gain = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + rank))])
    reciprocal = np.concatenate([[0.0], np.cumsum(1 / rank)])
    metrics = {}
    for k in ks:
        low, high = np.minimum(ahead, k), np.minimum(ahead + size, k)
        hit = (high - low) / size
        metrics[f"hr@{k}"] = metrics[f"recall@{k}"] = hit
        metrics[f"precision@{k}"] = hit / k
        metrics[f"ndcg@{k}"] = (gain[high] - gain[low]) / size
        metrics[f"mrr@{k}"] = metrics[f"map@{k}"] = (reciprocal[high] - reciprocal[low]) / size
    return metrics


def _log_choose(n: np.ndarray | int, k: np.ndarray | int) -> np.ndarray:
    return gammaln(np.add(n, 1)) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1)


class _TieGroups(NamedTuple):
    """Groups of equally scored items that contain a target; sorted by user, then best score first.

    Attributes:
      user: int [G], the user whose ranking has the group.
      start: int64 [G], the number of items ahead of the group.
      size: int64 [G], the number of items in the group.
      targets: int64 [G], the number of targets in the group.
      above: int64 [G], the number of the user's targets in earlier groups.
    """

    user: np.ndarray
    start: np.ndarray
    size: np.ndarray
    targets: np.ndarray
    above: np.ndarray


def _tie_groups(user: np.ndarray, ahead: np.ndarray, size: np.ndarray) -> _TieGroups:
    """Groups the targets: targets of one user with equal `ahead` are in one tie group."""
    order = np.lexsort((ahead, user))
    user, ahead, size = user[order], ahead[order], size[order]
    is_first = np.ones(len(user), bool)
    is_first[1:] = (user[1:] != user[:-1]) | (ahead[1:] != ahead[:-1])
    first = np.flatnonzero(is_first)
    targets = np.diff(np.append(first, len(user)))
    first_of_user = np.searchsorted(user, user[first])
    return _TieGroups(user[first], ahead[first], size[first], targets, first - first_of_user)


def _several_targets(groups: _TieGroups, count: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """{"hr": float64 [N], ...} at the cut-off k, from the tie groups of each user.

    Args:
      count: int64 [N], the number of targets of each user.
    """
    inside = np.minimum(groups.size, np.maximum(k - groups.start, 0))
    discounted, precision, reciprocal, chance = np.zeros((4, len(inside)))
    # One batch holds the groups with equally many ranks within the cut-off: at most k batches.
    for ranks_inside in np.unique(inside[inside > 0]):
        chosen = inside == ranks_inside
        sums = _sums_over_ranks(_TieGroups(*(x[chosen] for x in groups)), int(ranks_inside))
        discounted[chosen], precision[chosen], reciprocal[chosen], chance[chosen] = sums
    leading = groups.above == 0
    per_user = lambda values: np.bincount(groups.user, values, len(count))
    share = groups.targets / groups.size
    total = np.maximum(count, 1)
    discount = 1 / np.log2(1 + np.arange(1, k + 1))
    ideal = np.array([discount[:n].sum() for n in range(k + 1)])
    hits = per_user(groups.targets * inside / groups.size)
    return {
        "hr": 1.0 - np.maximum(0.0, 1.0 - per_user(np.where(leading, chance, 0.0))),
        "recall": hits / total,
        "precision": hits / k,
        "ndcg": per_user(share * discounted) / ideal[np.minimum(total, k)],
        "mrr": per_user(np.where(leading, reciprocal, 0.0)),
        "map": per_user(share * precision) / np.minimum(total, k),
    }


class _RankSums(NamedTuple):
    """Sums over some ranks r of each tie group, float64 [G] each.

    Attributes:
      discounted: of 1 / log2(1 + r).
      precision: of the expected precision at r, given a target at r.
      reciprocal: of P(the group's first target is at r) / r.
      chance: of P(the group's first target is at r).
    """

    discounted: np.ndarray
    precision: np.ndarray
    reciprocal: np.ndarray
    chance: np.ndarray


def _sums_over_ranks(groups: _TieGroups, inside: int) -> _RankSums:
    """The sums over the first `inside` ranks of each group."""
    members, targets = groups.size[:, None], groups.targets[:, None]
    place = np.arange(1, inside + 1)[None, :]
    rank = groups.start[:, None] + place
    others = (targets - 1) * (place - 1) / np.maximum(members - 1, 1)
    # If the first target is at `place`, the other targets are among the `left` later places.
    left = members - place
    ways = _log_choose(np.maximum(left, targets - 1), targets - 1)
    chance = np.where(left >= targets - 1, np.exp(ways - _log_choose(members, targets)), 0.0)
    return _RankSums(
        np.sum(1 / np.log2(1 + rank), axis=1),
        np.sum((groups.above[:, None] + 1 + others) / rank, axis=1),
        np.sum(chance / rank, axis=1),
        np.sum(chance, axis=1),
    )


def _percent_means(metrics: dict[str, np.ndarray], users: np.ndarray) -> dict[str, Any]:
    """Means in percent over those of `users` (bool [N]) whose metrics are not NaN."""
    counted = users & ~np.isnan(metrics[next(iter(metrics))])
    if not counted.any():
        return {"users": 0}
    means = {name: 100 * float(values[counted].mean()) for name, values in metrics.items()}
    return {"users": int(counted.sum()), **means}


def slices(dataset: Dataset, part: str) -> dict[str, np.ndarray]:
    """ "all", "warm" and "cold" -> bool [P], the targets of the slice in the order of the part."""
    return slices_of(dataset.train, getattr(dataset, part))


def slices_of(train: Interactions, held_out: Interactions) -> dict[str, np.ndarray]:
    """As `slices`, for two parts. Warm targets are items with an entry in `train`."""
    warm = train.item_counts[held_out.item] > 0
    return {"all": np.ones(len(warm), bool), "warm": warm, "cold": ~warm}


def averages(
    ahead: np.ndarray, tied: np.ndarray, dataset: Dataset, part: str, ks: tuple[int, ...]
) -> dict[str, Any]:
    """The means of `summarise` only: {"users", "hr@10", ..., "warm": {...}, "cold": {...}}."""
    everyone = np.ones(dataset.num_users, bool)
    result = {
        name: _percent_means(
            user_metrics(ahead, tied, getattr(dataset, part), select, ks), everyone
        )
        for name, select in slices(dataset, part).items()
    }
    return {**result.pop("all"), **result}


def _with_intervals(metrics: dict[str, np.ndarray], users: np.ndarray) -> dict[str, Any]:
    result = _percent_means(metrics, users)
    if result["users"]:
        result["ci95"] = {
            name: [100 * bound for bound in bootstrap_interval(metrics[name])]
            for name in ("hr@50", "ndcg@50")
        }
    return result


def summarise(
    ahead: np.ndarray,
    tied: np.ndarray,
    dataset: Dataset,
    part: str,
    ks: tuple[int, ...] = (10, 20, 50),
) -> dict[str, Any]:
    """Averages of one evaluation, in percent, over all users and over slices of targets and users.

    Args:
      ahead, tied: int [P], see `user_metrics`.
      part: "valid" or "test".
      ks: the cut-offs; 50 must be one of them.

    Returns:
      {"users", "hr@10", ..., "ci95", "warm": {...}, "cold": {...}, "activity": {"0-10":
      {...}, ...}, "worst_decile": {...}}. Warm targets are items with a train interaction.
      "worst_decile" averages the tenth of users with the lowest ndcg@50. A slice without users
      is {"users": 0}.
    """
    targets, select = getattr(dataset, part), slices(dataset, part)
    everyone = np.ones(dataset.num_users, bool)
    metrics = user_metrics(ahead, tied, targets, ks=ks)
    summary = _with_intervals(metrics, everyone)
    for name in ("warm", "cold"):
        by_user = user_metrics(ahead, tied, targets, select[name], ks)
        summary[name] = _with_intervals(by_user, everyone)
    summary["activity"] = {
        name: _percent_means(metrics, group)
        for name, group in activity_groups(dataset.train.counts).items()
    }
    summary["worst_decile"] = _worst_decile(metrics)
    return summary


def _worst_decile(metrics: dict[str, np.ndarray]) -> dict[str, Any]:
    ndcg = metrics["ndcg@50"]
    evaluated = np.flatnonzero(~np.isnan(ndcg))
    worst = evaluated[np.argsort(ndcg[evaluated], kind="stable")[: -(-len(evaluated) // 10)]]
    chosen = np.zeros(len(ndcg), bool)
    chosen[worst] = True
    return _percent_means(metrics, chosen)
