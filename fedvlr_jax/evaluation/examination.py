"""Facts about a loaded data set, and warnings about likely mistakes in it.

The loader refuses data that cannot be used. The warnings here name data that can be used but may
not be what the user intended.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines import content_knn, rank, scores_of

# Of the permutations and of the sample of users.
SEED = 0
PERMUTATIONS = 19
# Size of the sample of users whose targets are ranked, once for each permutation.
MOST_USERS = 300
# Features fit the items if content-kNN exceeds its mean over permuted rows by at least this many
# standard deviations.
ALIGNED = 3.0
# Seconds from 1970 to 1980 and to 2100. In these years, no number is a date in two units.
_DATES = (315_532_800, 4_102_444_800)
_UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


class Examination(NamedTuple):
    """Facts about a data set as plain JSON values, and the warnings that follow from them.

    Attributes:
      facts: {"users": int, ..., "features": {modality: {...}}}, see `examine`.
      warnings: one line for each likely mistake; may be empty.
    """

    facts: dict[str, Any]
    warnings: tuple[str, ...]


def examine(dataset: Dataset) -> Examination:
    """Counts users, items, cold targets and entries out of order; tests the features."""
    features = {name: _feature_facts(dataset, name) for name in dataset.features}
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
        "entries_by_unit_of_time": _units_of_time(dataset),
        "features": features,
        "notes": list(dataset.notes),
    }
    return Examination(facts, tuple(_warnings(facts)))


def _feature_facts(dataset: Dataset, name: str) -> dict[str, Any]:
    """Width, row norms, zero and repeated rows of one modality, and its content-kNN accuracy."""
    feature = dataset.features[name]
    norm = np.linalg.norm(feature.astype(np.float64), axis=1)
    found = _percentile(dataset, name)
    shuffled = [_percentile(dataset, name, draw) for draw in range(PERMUTATIONS)]
    spread = float(np.std(shuffled, ddof=1))
    return {
        "width": feature.shape[1],
        "norm": {"least": float(norm.min()), "median": float(np.median(norm))}
        | {"most": float(norm.max())},
        # No fact counts NaN or infinity: the loader refuses them.
        "zero_rows": int((norm == 0).sum()),
        "repeated_rows": len(feature) - len(np.unique(feature, axis=0)),
        "knn_percentile": found,
        "chance_percentile": float(np.mean(shuffled)),
        "deviations": (found - float(np.mean(shuffled))) / spread if spread > 0 else 0.0,
    }


def _percentile(dataset: Dataset, name: str, draw: int | None = None) -> float:
    """Mean percentage of the other items that content-kNN ranks behind a held-out item.

    If `draw` is given, the feature rows are permuted first. The result then measures chance.
    """
    feature = dataset.features[name]
    if draw is not None:
        feature = np.random.default_rng((SEED, draw)).permutation(feature)
    users = np.random.default_rng(SEED).permutation(dataset.num_users)[:MOST_USERS]
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
        mean_ahead = ranks.ahead + ranks.tied / 2.0
        behind.append(1 - mean_ahead / np.maximum(others, 1)[held_out.users])
    return 100 * float(np.mean(np.concatenate(behind))) if behind else 50.0


def _absent_items(dataset: Dataset) -> np.ndarray:
    """bool [I]: the items that occur in no part."""
    parts = (dataset.train, dataset.valid, dataset.test)
    return np.add.reduce([part.item_counts for part in parts]) == 0


def _out_of_order(dataset: Dataset) -> int | None:
    """The number of users with a held-out entry older than their newest train entry.

    None if the data set has no time stamps.
    """
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
    """The number of users with entries of equal time in two parts; None without time stamps."""
    parts = (dataset.train, dataset.valid, dataset.test)
    if not any(part.time.any() for part in parts):
        return None
    user = np.concatenate([part.users for part in parts])
    time = np.concatenate([part.time for part in parts])
    number = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    order = np.lexsort((number, time, user))
    user, time, number = user[order], time[order], number[order]
    tied = (user[1:] == user[:-1]) & (time[1:] == time[:-1]) & (number[1:] != number[:-1])
    return len(np.unique(user[1:][tied]))


def _units_of_time(dataset: Dataset) -> dict[str, int]:
    """Unit -> the number of entries whose time is a date from 1980 to 2100 in this unit.

    "none" counts the other entries.
    """
    parts = (dataset.train, dataset.valid, dataset.test)
    time = np.concatenate([part.time for part in parts])
    counted = {
        unit: int(((time >= _DATES[0] * scale) & (time < _DATES[1] * scale)).sum())
        for unit, scale in _UNITS.items()
    }
    counted["none"] = len(time) - sum(counted.values())
    return {unit: count for unit, count in counted.items() if count}


def _time_warnings(units: dict[str, int], num_entries: int) -> list[str]:
    """A line if the times are in several units, or most of them are dates and some are not."""
    dates = {unit: count for unit, count in units.items() if unit != "none"}
    lines = []
    if len(dates) > 1:
        listed = ", ".join(f"{count} in {unit}" for unit, count in dates.items())
        lines.append(
            f"the time stamps look like dates in several units ({listed} since 1970): the order "
            "in time is wrong; convert them to one unit"
        )
    if 0 < units.get("none", 0) < num_entries / 2:
        lines.append(
            f"{units['none']} of {num_entries} time stamps are no dates from 1980 to 2100, the "
            "others are: are they missing values, such as 0 or -1?"
        )
    return lines


def _warnings(facts: dict[str, Any]) -> list[str]:
    """One line for each likely mistake that `facts` show."""
    lines = []
    targets = facts["test"]
    cold, late = facts["cold_targets"]["test"], facts["out_of_order"]
    if not targets:
        lines.append("the test part is empty: nothing can be measured")
    if not facts["valid"]:
        lines.append(
            "the validation part is empty: no round can be selected, so the last one is tested"
        )
    if targets and cold > targets / 20:
        lines.append(
            f"{cold} of {targets} test targets are cold (no train interaction): judge methods on "
            "the warm ones first"
        )
    if facts["items_absent"] > facts["items"] / 20:
        lines.append(
            f"{facts['items_absent']} of {facts['items']} items never occur: every ranking has "
            "them as candidates, which lowers all metrics, and protocol 'strict' has them as "
            "negatives; do the item ids equal the row numbers of the features?"
        )
    if late is None:
        lines.append("no time stamps: cannot check that train entries precede held-out entries")
    elif late:
        lines.append(
            f"{late} of {facts['users']} users have a held-out item older than their newest "
            "train item: training uses entries from after the test"
        )
    num_entries = sum(facts[part] for part in ("train", "valid", "test"))
    lines += _time_warnings(facts["entries_by_unit_of_time"], num_entries)
    if facts["tied_in_time"] and facts["split"] != "predefined":
        lines.append(
            f"{facts['tied_in_time']} of {facts['users']} users have entries of equal time in two "
            "parts: the order of the lines in the file decided which part each is in"
        )
    for name, feature in facts["features"].items():
        if feature["zero_rows"]:
            lines.append(
                f"{name}: {feature['zero_rows']} rows are zero (items without this feature?)"
            )
        if feature["repeated_rows"] > facts["items"] / 20:
            lines.append(f"{name}: {feature['repeated_rows']} rows repeat another row")
        if feature["deviations"] < ALIGNED:
            lines.append(
                f"{name}: content-kNN is no better than with shuffled rows "
                f"({feature['deviations']:+.1f} standard deviations): are the rows in the order "
                "of the items?"
            )
    return lines
