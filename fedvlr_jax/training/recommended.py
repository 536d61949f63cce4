"""A few users of a finished run: their histories, recommendations and weights of the views."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedvlr_jax.simulation import Simulation, State

USERS, HISTORY, PLACES = 4, 5, 5


def recommended_titles(
    simulation: Simulation, state: State, titles: np.ndarray, weights: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Recommendations of a few users by title, as `report` documents "recommended".

    With a router, the users are those with the largest weight of each view; else they are spread
    evenly over the population. A user without a train interaction is not shown.

    Args:
      titles: str [num_items]; an item without a title has its id in place of it.
      weights: float [N, G], of the clients' routers.
    """
    dataset = simulation.dataset
    named = [str(t) or str(i) for t, i in zip(titles, dataset.item_ids, strict=True)]
    places = min(PLACES, dataset.num_items)
    items, scores = simulation.recommend(state, places)
    shown = []
    for user in _chosen(dataset.train.counts, weights):
        begin, end = dataset.train.indptr[user : user + 2]
        test = set(dataset.test.item[dataset.test.indptr[user] : dataset.test.indptr[user + 1]])
        real = np.isfinite(scores[user])
        shown.append(
            {
                "user": str(dataset.user_ids[user]),
                "history_length": int(end - begin),
                "history": [named[item] for item in dataset.train.item[begin:end][:HISTORY]],
                "items": [
                    {"title": named[item], "score": float(score), "target": bool(item in test)}
                    for item, score in zip(items[user][real], scores[user][real], strict=True)
                ],
                "weights": None if weights is None else [float(w) for w in weights[user]],
            }
        )
    return shown


def _chosen(history_length: np.ndarray, weights: np.ndarray | None) -> list[int]:
    """At most USERS users, each once, that have a history."""
    known = np.flatnonzero(history_length > 0)
    if not len(known):
        return []
    if weights is None or np.ptp(weights[known], axis=0).max() == 0:
        return [int(u) for u in known[np.unique(np.linspace(0, len(known) - 1, USERS).astype(int))]]
    leading = known[np.argmax(weights[known], axis=0)]
    return [int(user) for user in dict.fromkeys(leading.tolist())][:USERS]
