"""The selection rule of rounds and settings: a metric at a cut-off, on a slice of the targets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedvlr_jax.errors import InputError

METRICS = ("hr", "recall", "precision", "ndcg", "mrr", "map")
SLICES = ("all", "warm", "cold")
# Cut-off of the headline metrics: always computed, whatever --ks and --select are.
HEADLINE = 50
_FORM = re.compile(r"(?:(?P<slice>[a-z]+)_)?(?P<metric>[a-z]+)(?:@(?P<cutoff>[0-9]{1,6}))?")


class Selection(NamedTuple):
    """E.g. Selection("warm", "ndcg", 50), written warm_ndcg@50.

    Attributes:
      slice: "all", "warm" or "cold"; "auto" until the data set is known, see
        `evaluation.selection.resolve_selection`.
      metric: one of METRICS.
      cutoff: K, at least 1.
    """

    slice: str
    metric: str
    cutoff: int

    def __str__(self) -> str:
        return self.metric_name if self.slice == "auto" else f"{self.slice}_{self.metric_name}"

    @property
    def metric_name(self) -> str:
        """E.g. "ndcg@50"."""
        return f"{self.metric}@{self.cutoff}"

    @property
    def label(self) -> str:
        """A phrase for messages, e.g. "NDCG@50 of the warm targets"."""
        of_slice = "" if self.slice in ("auto", "all") else f" of the {self.slice} targets"
        name = {"recall": "Recall", "precision": "Precision"}.get(self.metric, self.metric.upper())
        return f"{name}@{self.cutoff}{of_slice}"

    def value(self, averages: Mapping[str, Any]) -> float | None:
        """The value in `evaluation.metrics.averages`' result; None if the slice is empty."""
        part = averages if self.slice == "all" else averages.get(self.slice, {})
        found = part.get(self.metric_name)
        return None if found is None else float(found)


OF_ALL = Selection("all", "ndcg", HEADLINE)


def selection_of(summary: Mapping[str, Any]) -> Selection:
    """The selection rule of the run of a summary.

    Earlier versions selected by NDCG@50 of all targets and did not record it.
    """
    return parse_selection(str(summary.get("select", OF_ALL)))


def parse_selection(text: str) -> Selection:
    """The Selection of --select. "auto" is NDCG@50 of the judged slice of the data set.

    Without a slice ("ndcg@20") the slice is "auto" too; "all_ndcg@20" uses all targets.

    Raises:
      InputError: invalid form, unknown metric or unknown slice.
    """
    if text == "auto":
        return Selection("auto", "ndcg", HEADLINE)
    found = _FORM.fullmatch(text)
    if found is None or found["cutoff"] is None or int(found["cutoff"]) < 1:
        raise InputError(
            f"--select={text}: give a metric at a cut-off, e.g. ndcg@50, or with a slice, e.g. "
            "warm_hr@10"
        )
    chosen = Selection(found["slice"] or "auto", found["metric"], int(found["cutoff"]))
    if chosen.metric not in METRICS:
        raise InputError(
            f"--select={text}: no metric {chosen.metric!r}; give one of {', '.join(METRICS)}"
        )
    if chosen.slice not in (*SLICES, "auto"):
        raise InputError(
            f"--select={text}: no slice {chosen.slice!r}; give one of {', '.join(SLICES)}"
        )
    return chosen
