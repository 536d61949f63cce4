"""What a data set that could be loaded is like, and what of it a person should look at.

The loader has refused already what cannot be used; this says what can be, but may not be
what was meant.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines import content_knn, rank, scores_of

PERMUTATIONS = 19
# Users whose targets are ranked once per permutation of the feature rows.
MOST_USERS = 300
# Standard deviations over permuted rows from which on features are told apart from chance.
ALIGNED = 3.0


class Examination(NamedTuple):
    """Facts about a data set, as plain JSON values, and what of them gives pause.

    Attributes:
      facts: {"users": int, ..., "features": {modality: {...}}}, see `examine`.
      warnings: one line each; empty where nothing gives pause.
    """

    facts: dict[str, Any]
    warnings: tuple[str, ...]


def examine(dataset: Dataset, seed: int = 0) -> Examination:
    """Counts, cold targets, order in time, and whether each feature fits the items.

    Args:
      seed: of the permutations and of the sample of users.
    """
    features = {name: _feature_facts(dataset, name, seed) for name in dataset.features}
    counts = dataset.train.counts
    facts: dict[str, Any] = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split": dataset.split,
        "users": dataset.num_users,
        "items": dataset.num_items,
        **{part: len(getattr(dataset, part)) for part in ("train", "valid", "test")},
        "history": {"fewest": int(counts.min()), "median": float(np.median(counts))}
        | {"most": int(counts.max())},
        "users_without": {
            part: int((getattr(dataset, part).counts == 0).sum()) for part in ("valid", "test")
        },
        "items_without_train": int((dataset.train.item_counts == 0).sum()),
        "items_absent": int(_absent_items(dataset).sum()),
        "cold_targets": {
            part: int((dataset.train.item_counts[getattr(dataset, part).item] == 0).sum())
            for part in ("valid", "test")
        },
        "out_of_order": _out_of_order(dataset),
        "tied_in_time": _tied_in_time(dataset),
        "features": features,
        "notes": list(dataset.notes),
    }
    return Examination(facts, tuple(_warnings(facts)))


def _feature_facts(dataset: Dataset, name: str, seed: int) -> dict[str, Any]:
    """Width, norms and odd rows of one modality, and how content-kNN does on it."""
    feature = dataset.features[name]
    norm = np.linalg.norm(feature.astype(np.float64), axis=1)
    found = _percentile(dataset, name, seed)
    shuffled = [_percentile(dataset, name, seed, draw) for draw in range(PERMUTATIONS)]
    spread = float(np.std(shuffled, ddof=1))
    return {
        "width": feature.shape[1],
        "norm": {"least": float(norm.min()), "median": float(np.median(norm))}
        | {"most": float(norm.max())},
        # The loader refuses what is not finite: it never gets here.
        "zero_rows": int((norm == 0).sum()),
        "repeated_rows": len(feature) - len(np.unique(feature, axis=0)),
        "knn_percentile": found,
        "chance_percentile": float(np.mean(shuffled)),
        "deviations": (found - float(np.mean(shuffled))) / spread if spread > 0 else 0.0,
    }


def _percentile(dataset: Dataset, name: str, seed: int, draw: int | None = None) -> float:
    """Percent of the other items that content-kNN ranks behind a held-out item, on average.

    With `draw` the rows of the feature are shuffled first: what chance gives.
    """
    feature = dataset.features[name]
    if draw is not None:
        feature = np.random.default_rng((seed, draw)).permutation(feature)
    users = np.random.default_rng(seed).permutation(dataset.num_users)[:MOST_USERS]
    parts = {part: getattr(dataset, part).of_users(users) for part in ("train", "valid", "test")}
    sample = dataclasses.replace(dataset, **parts, features={name: feature})
    scorer = scores_of(content_knn(sample, (name,))(), sample)
    behind = []
    for part in ("valid", "test"):
        held_out = getattr(sample, part)
        if not len(held_out):
            continue
        ranks = rank(scorer, sample, part)
        others = dataset.num_items - 1 - sample.train.counts
        others -= sample.valid.counts if part == "test" else 0
        place = ranks.ahead + ranks.tied / 2.0
        behind.append(1 - place / np.maximum(others, 1)[held_out.users])
    return 100 * float(np.mean(np.concatenate(behind))) if behind else 50.0


def _absent_items(dataset: Dataset) -> np.ndarray:
    """bool [I]: the items that no part has."""
    parts = (dataset.train, dataset.valid, dataset.test)
    return np.add.reduce([part.item_counts for part in parts]) == 0


def _out_of_order(dataset: Dataset) -> int | None:
    """Users with a held-out item older than their newest train item; None without times."""
    parts = (dataset.train, dataset.valid, dataset.test)
    if not any(part.time.any() for part in parts):
        return None
    newest = np.full(dataset.num_users, np.iinfo(np.int64).min)
    np.maximum.at(newest, dataset.train.users, dataset.train.time)
    late = np.zeros(dataset.num_users, bool)
    for part in parts[1:]:
        late[part.users[part.time < newest[part.users]]] = True
    return int(late.sum())


def _tied_in_time(dataset: Dataset) -> int | None:
    """Users of whom two parts have entries of one time; None without times."""
    parts = (dataset.train, dataset.valid, dataset.test)
    if not any(part.time.any() for part in parts):
        return None
    user, time, name = (
        np.concatenate(of)
        for of in zip(
            *((part.users, part.time, np.full(len(part), p)) for p, part in enumerate(parts)),
            strict=True,
        )
    )
    order = np.lexsort((name, time, user))
    user, time, name = user[order], time[order], name[order]
    tied = (user[1:] == user[:-1]) & (time[1:] == time[:-1]) & (name[1:] != name[:-1])
    return len(np.unique(user[1:][tied]))


def _warnings(facts: dict[str, Any]) -> list[str]:
    """What of `facts` gives pause, one line each."""
    lines = []
    targets = facts["test"]
    cold, late = facts["cold_targets"]["test"], facts["out_of_order"]
    if not targets:
        lines.append("the test part is empty: nothing can be measured")
    if not facts["valid"]:
        lines.append(
            "the validation part is empty: no round can be selected, the last one is tested"
        )
    if targets and cold > targets / 20:
        lines.append(
            f"{cold} of {targets} test targets are cold (no train interaction): judge methods on "
            "the warm ones first"
        )
    if facts["items_absent"] > facts["items"] / 20:
        lines.append(
            f"{facts['items_absent']} of {facts['items']} items never occur: they are candidates "
            "of every ranking, which lowers all metrics, and negatives under protocol 'strict'; "
            "are the item ids the rows of the features?"
        )
    if late is None:
        lines.append("no time stamps: whether the split looks into the future cannot be said")
    elif late:
        lines.append(
            f"{late} of {facts['users']} users have a held-out item older than their newest "
            "train item: the split looks into the future"
        )
    if facts["tied_in_time"] and facts["split"] != "predefined":
        lines.append(
            f"{facts['tied_in_time']} of {facts['users']} users have entries of one time in two "
            "parts: the order of the lines in the file parted them"
        )
    for name, feature in facts["features"].items():
        if feature["zero_rows"]:
            lines.append(f"{name}: {feature['zero_rows']} rows are zero (items without one?)")
        if feature["repeated_rows"] > facts["items"] / 20:
            lines.append(f"{name}: {feature['repeated_rows']} rows repeat another row")
        if feature["deviations"] < ALIGNED:
            lines.append(
                f"{name}: content-kNN is not told apart from shuffled rows "
                f"({feature['deviations']:+.1f} deviations): are the rows in the items' order?"
            )
    return lines
