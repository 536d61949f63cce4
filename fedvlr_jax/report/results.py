"""Reading a summary: its methods, its slices and their estimates, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

METRIC_LABELS = {"hr@50": "HR@50", "ndcg@50": "NDCG@50"}
SLICE_LABELS = {"all": "all targets", "warm": "warm targets", "cold": "cold targets"}
# A mean over fewer users is too uncertain; their group joins a neighbour or is left out.
LEAST_USERS = 10
# Keys of a baseline's summary that describe it; all other scalars are its options.
_NOT_OPTIONS = ("users", "skipped", "title", "trained", "content", "settings_tried", "select")


class Estimate(NamedTuple):
    """A mean over `users` users, in percent, and its 95% interval if known."""

    value: float
    low: float | None
    high: float | None
    users: int


class Method(NamedTuple):
    """A row of a results table: the model or a baseline, with its test summary.

    `paired`: the paired test of the model against this baseline, as `report` documents "paired";
    empty without a test.
    """

    name: str
    options: str
    is_model: bool
    test: Mapping[str, Any]
    paired: Mapping[str, Any]


def model_name(summary: Mapping[str, Any]) -> str:
    """E.g. "fcf + bilevel"; only the backbone if there is no fusion."""
    backbone, fusion = str(summary.get("backbone", "model")), summary.get("fusion")
    return backbone if fusion in (None, "none") else f"{backbone} + {fusion}"


def slice_of(test: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The part of a test summary for "all", "warm" or "cold"; empty if it is absent."""
    return test if name == "all" else test.get(name) or {}


def estimate(test: Mapping[str, Any], metric: str, slice_name: str = "all") -> Estimate | None:
    """A metric of a test summary over a slice; None if the slice has no users."""
    part = slice_of(test, slice_name)
    if metric not in part:
        return None
    low, high = (part.get("ci95") or {}).get(metric, (None, None))
    return Estimate(part[metric], low, high, part.get("users", 0))


def has_cold_targets(summary: Mapping[str, Any]) -> bool:
    """Whether any test target has no train interaction."""
    return bool(slice_of(summary.get("test") or {}, "cold").get("users", 0))


def shows_cold(summary: Mapping[str, Any]) -> bool:
    """Whether the number of users with a cold target is large enough for a column and a figure."""
    return slice_of(summary.get("test") or {}, "cold").get("users", 0) >= LEAST_USERS


def judged_slice(summary: Mapping[str, Any]) -> str:
    """ "warm" for a data set with cold and warm targets, else "all"."""
    warm = slice_of(summary.get("test") or {}, "warm").get("users", 0)
    return "warm" if warm and has_cold_targets(summary) else "all"


def shown_slices(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """The slices that get a column. Without cold targets the column "warm" would repeat "all"."""
    if not has_cold_targets(summary):
        return ("all",)
    if judged_slice(summary) != "warm":
        return ("all", "cold")
    return ("all", "warm", "cold") if shows_cold(summary) else ("all", "warm")


def merged_groups(users: Mapping[str, int]) -> dict[str, list[str]]:
    """Neighbouring activity groups, joined until each has LEAST_USERS users.

    Args:
      users: the number of users of each group, such as {"0-10": 30, "11-20": 4, "501+": 1}.

    Returns:
      {name of the joined group: its groups}, such as {"0-10": ["0-10"], ...}. Empty groups are
      left out.
    """
    joined: list[list[str]] = []
    waiting: list[str] = []
    for name in (name for name, count in users.items() if count):
        waiting.append(name)
        if sum(users[each] for each in waiting) >= LEAST_USERS:
            joined.append(waiting)
            waiting = []
    if waiting:
        joined = [*joined[:-1], [*(joined[-1] if joined else []), *waiting]]
    return {_span(names): names for names in joined}


def _span(names: list[str]) -> str:
    low, last = names[0].rstrip("+").split("-")[0], names[-1]
    return f"{low}+" if last.endswith("+") else f"{low}-{last.split('-')[1]}"


def in_group(length: np.ndarray, name: str) -> np.ndarray:
    """bool [N]: whether each history length is in the activity group "low-high" or "low+"."""
    low, _, high = name.rstrip("+").partition("-")
    return (length >= int(low)) & (length <= (float(high) if high else np.inf))


def methods(summary: Mapping[str, Any]) -> list[Method]:
    """The model and every baseline that ran, best NDCG@50 on the judged slice first."""
    rows = [Method(model_name(summary), "", True, summary.get("test") or {}, {})]
    paired = summary.get("paired") or {}
    for name, baseline in (summary.get("baselines") or {}).items():
        if "skipped" not in baseline:
            title = str(baseline.get("title", name))
            rows.append(Method(title, _options(baseline), False, baseline, paired.get(name) or {}))
    judged = judged_slice(summary)

    def order(row: Method) -> tuple[bool, float, str]:
        found = estimate(row.test, "ndcg@50", judged)
        return found is None, -found.value if found else 0.0, row.name

    return sorted(rows, key=order)


def skipped_baselines(summary: Mapping[str, Any]) -> dict[str, str]:
    """{baseline: the reason why it was skipped}."""
    baselines = summary.get("baselines") or {}
    return {
        str(b.get("title", name)): str(b["skipped"])
        for name, b in baselines.items()
        if "skipped" in b
    }


def _options(baseline: Mapping[str, Any]) -> str:
    chosen = (
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in baseline.items()
        if isinstance(value, int | float | str) and "@" not in key and key not in _NOT_OPTIONS
    )
    # The data that it needs, and whether it reads features: see `evaluation.baselines.Baseline`.
    kind = [str(baseline["trained"])] if baseline.get("trained") not in (None, "none") else []
    kind += ["content-aware"] if baseline.get("content") else []
    return ", ".join([*chosen, *kind])
