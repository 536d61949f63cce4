"""Ranking metrics per user, exact under ties, and their averages over slices.

A target tied with t others takes each of its t + 1 possible ranks with equal
probability, and every metric is the exact expectation over them: a constant score earns
what chance earns. All is float64; nothing is rounded before it is averaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import gammaln

from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.evaluation.significance import bootstrap_interval

METRICS = ("hr", "recall", "precision", "ndcg", "mrr", "map")
ACTIVITY_GROUPS = ((0, 10), (11, 20), (21, 50), (51, 100), (101, 200), (201, 500), (501, None))


def activity_groups(lengths: np.ndarray) -> dict[str, np.ndarray]:
    """ "0-10", ..., "501+" -> bool [N]: the users whose history of `lengths` [N] is that long."""
    return {
        f"{low}+" if high is None else f"{low}-{high}": (lengths >= low)
        & (lengths <= (np.inf if high is None else high))
        for low, high in ACTIVITY_GROUPS
    }


def targets_of(part: Interactions) -> np.ndarray:
    """int32 [N, T]: every user's items of a held-out part, padded with -1; T is at least 1."""
    counts = part.counts
    targets = np.full((part.num_users, max(1, int(counts.max(initial=0)))), -1, np.int32)
    targets[np.arange(targets.shape[1])[None, :] < counts[:, None]] = part.item
    return targets


def user_metrics(
    ahead: np.ndarray, tied: np.ndarray, select: np.ndarray, ks: tuple[int, ...] = (10, 20, 50)
) -> dict[str, np.ndarray]:
    """Metrics of every user, in [0, 1]; NaN for a user without a selected target.

    Args:
      ahead, tied: int [N, T], as `count_ahead` returns them.
      select: bool [N, T], the targets that count.
      ks: the cut-offs.

    Returns:
      {"hr@10": float64 [N], ...} for hr, recall, precision, ndcg, mrr and map.
    """
    count = select.sum(axis=1)
    metrics = {f"{name}@{k}": np.full(len(select), np.nan) for name in METRICS for k in ks}
    single = count == 1
    if single.any():
        column = select[single].argmax(axis=1)[:, None]
        first = np.take_along_axis(ahead[single], column, axis=1)[:, 0].astype(np.int64)
        size = np.take_along_axis(tied[single], column, axis=1)[:, 0].astype(np.int64) + 1
        for name, values in _single_target(first, size, ks).items():
            metrics[name][single] = values
    for user in np.flatnonzero(count > 1):
        chosen = select[user]
        values = _several_targets(ahead[user][chosen], tied[user][chosen] + 1, ks)
        for name, value in values.items():
            metrics[name][user] = value
    return metrics


def _single_target(ahead: np.ndarray, size: np.ndarray, ks: tuple[int, ...]) -> dict:
    """One target a user, in a tie group of `size` behind `ahead` items."""
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


def _several_targets(ahead: np.ndarray, size: np.ndarray, ks: tuple[int, ...]) -> dict:
    """The targets of one user; targets with equal `ahead` share a tie group of `size`."""
    groups = [(int(a), int(size[ahead == a][0]), int((ahead == a).sum())) for a in np.unique(ahead)]
    total = len(ahead)
    metrics = {}
    for k in ks:
        hits = ndcg = average = 0.0
        above = 0
        miss, first = 1.0, 0.0
        for start, members, targets in groups:
            places = np.arange(1, min(members, max(k - start, 0)) + 1)
            inside = len(places)
            hits += targets * inside / members
            ndcg += targets / members * np.sum(1 / np.log2(1 + start + places))
            others = (targets - 1) * (places - 1) / max(members - 1, 1)
            average += targets / members * np.sum((above + 1 + others) / (start + places))
            if above == 0 and inside:
                # P(the group's first target stands at place j), without replacement.
                left = members - places
                possible = left >= targets - 1
                chance = np.where(
                    possible,
                    np.exp(
                        _log_choose(np.maximum(left, targets - 1), targets - 1)
                        - _log_choose(members, targets)
                    ),
                    0.0,
                )
                first = float(np.sum(chance / (start + places)))
                miss = max(0.0, 1.0 - float(chance.sum()))
            above += targets
        ideal = np.sum(1 / np.log2(1 + np.arange(1, min(total, k) + 1)))
        metrics[f"hr@{k}"] = 1.0 - miss
        metrics[f"recall@{k}"] = hits / total
        metrics[f"precision@{k}"] = hits / k
        metrics[f"ndcg@{k}"] = ndcg / ideal
        metrics[f"mrr@{k}"] = first
        metrics[f"map@{k}"] = average / min(total, k)
    return metrics


def _percent_means(metrics: dict[str, np.ndarray], users: np.ndarray) -> dict[str, Any]:
    """Means in percent over `users` (bool [N]) that have a value."""
    counted = users & ~np.isnan(metrics[next(iter(metrics))])
    if not counted.any():
        return {"users": 0}
    means = {name: 100 * float(values[counted].mean()) for name, values in metrics.items()}
    return {"users": int(counted.sum()), **means}


def slices(dataset: Dataset, part: str) -> dict[str, np.ndarray]:
    """bool [N, T] each: which targets are real, and which of those are warm and cold."""
    targets = targets_of(getattr(dataset, part))
    real = targets >= 0
    warm = real & (dataset.train.item_counts[np.maximum(targets, 0)] > 0)
    return {"all": real, "warm": warm, "cold": real & ~warm}


def averages(
    ahead: np.ndarray, tied: np.ndarray, dataset: Dataset, part: str, ks: tuple[int, ...]
) -> dict[str, Any]:
    """The means of `summarise` alone: {"users", "hr@10", ..., "warm": {...}, "cold": {...}}."""
    everyone = np.ones(dataset.num_users, bool)
    result = {
        name: _percent_means(user_metrics(ahead, tied, select, ks), everyone)
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
    """Averages of one evaluation, in percent, over all users and over the protocol's slices.

    Returns:
      {"users", "hr@10", ..., "ci95", "warm": {...}, "cold": {...}, "activity": {"0-10":
      {...}, ...}, "worst_decile": {...}}. Warm targets are items with a train
      interaction. A slice without users is {"users": 0}. `ks` must hold 50.
    """
    select = slices(dataset, part)
    everyone = np.ones(dataset.num_users, bool)
    metrics = user_metrics(ahead, tied, select["all"], ks)
    summary = _with_intervals(metrics, everyone)
    for name in ("warm", "cold"):
        summary[name] = _with_intervals(user_metrics(ahead, tied, select[name], ks), everyone)
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
