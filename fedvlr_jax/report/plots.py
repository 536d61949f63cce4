"""The figures of a run's test. Each is an <svg> text, or None without data.

Percentages come from summaries and are drawn unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from fedvlr_jax.report.axes import SLICE_COLOURS, group_ticks, legend_below
from fedvlr_jax.report.labels import in_lines
from fedvlr_jax.report.results import (
    LEAST_USERS,
    METRIC_LABELS,
    SLICE_LABELS,
    estimate,
    in_group,
    merged_groups,
    methods,
    shown_slices,
)
from fedvlr_jax.report.svg import INK, MUTED, draw


def method_bars(summary: Mapping[str, Any], metric: str) -> str | None:
    """A test metric of the model (strong colour) and the baselines, per slice, with 95% CIs."""
    rows = methods(summary)
    slices = [s for s in shown_slices(summary) if s != "all"] or ["all"]
    if not any(estimate(row.test, metric, part) for row in rows for part in slices):
        return None
    thickness = 0.78 / len(slices)

    def paint(axes: Axes) -> None:
        for place, row in enumerate(rows):
            for number, part in enumerate(slices):
                found = estimate(row.test, metric, part)
                if found is None:
                    continue
                height = place + (number - (len(slices) - 1) / 2) * thickness
                axes.barh(
                    height,
                    found.value,
                    0.9 * thickness,
                    color=SLICE_COLOURS[part],
                    alpha=1.0 if row.is_model else 0.42,
                )
                if found.low is not None and found.high is not None:
                    axes.plot([found.low, found.high], [height] * 2, color=INK, linewidth=1.3)
        axes.set_yticks(range(len(rows)), [in_lines(row.name) for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_color(INK if row.is_model else MUTED)
            tick.set_fontweight("bold" if row.is_model else "normal")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(rows) - 0.45, -0.55)
        axes.set_xlim(left=0)
        label = METRIC_LABELS[metric]
        alone = f", {SLICE_LABELS[slices[0]]}" if slices in (["warm"], ["cold"]) else ""
        axes.set(title=f"Test {label}{alone}", xlabel=f"{label} (%), line: 95% CI over users")
        if len(slices) > 1:
            patches = [Patch(color=SLICE_COLOURS[s], label=SLICE_LABELS[s]) for s in slices]
            legend_below(axes, patches)

    height = 1.3 + 0.21 * len(rows) * (len(slices) + 0.35)
    return draw(f"Test {METRIC_LABELS[metric]} of all methods", paint, height=height)


def activity_bars(summary: Mapping[str, Any], users: Mapping[str, np.ndarray]) -> str | None:
    """Test HR@50 and NDCG@50 of the model by the length of the users' train histories.

    Args:
      users: the arrays of users.npz; without metrics in it the bars have no 95% interval.
    """
    activity = (summary.get("test") or {}).get("activity") or {}
    counts = {name: group.get("users", 0) for name, group in activity.items()}
    groups = merged_groups(counts)
    if not groups:
        return None

    def paint(axes: Axes) -> None:
        for number, (metric, label) in enumerate(METRIC_LABELS.items()):
            for place, names in enumerate(groups.values()):
                weights = [counts[name] for name in names]
                values = [activity[name].get(metric, np.nan) for name in names]
                at, height = place + 0.4 * (number - 0.5), np.average(values, weights=weights)
                # Over all targets: one colour, the second metric paler.
                colour, alpha = SLICE_COLOURS["all"], (1.0, 0.45)[number]
                axes.bar(
                    at, height, 0.37, color=colour, alpha=alpha, label=None if place else label
                )
                if half := _half_interval(users, metric, names):
                    axes.plot([at] * 2, [height - half, height + half], color=INK, linewidth=1.3)
        group_ticks(axes, {name: sum(counts[n] for n in of) for name, of in groups.items()})
        axes.set(title="Test metrics by activity", ylabel="mean (%), line: 95% interval")
        axes.set_ylim(bottom=0)
        legend_below(axes)

    return draw("Test metrics by activity group", paint)


def _half_interval(users: Mapping[str, np.ndarray], metric: str, names: Sequence[str]) -> float:
    """Half the 95% interval of a mean over the users of some groups, in percent, by the normal
    distribution; 0 if it is unknown."""
    if metric not in users or "history_length" not in users:
        return 0.0
    chosen = np.any([in_group(users["history_length"], name) for name in names], axis=0)
    values = 100 * np.asarray(users[metric], np.float64)[chosen]
    values = values[~np.isnan(values)]
    return 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def user_distribution(users: Mapping[str, np.ndarray]) -> str | None:
    """The share of users by their own test NDCG@50: zero, then fifths of the range.

    Args:
      users: the arrays of users.npz.
    """
    values = np.asarray(users.get("ndcg@50", np.zeros(0)), np.float64)
    values = 100 * values[~np.isnan(values)]
    if len(values) < LEAST_USERS:
        return None
    edges = np.array([0.0, 20.0, 40.0, 60.0, 80.0, 100.0])
    # Rounding can put a perfect list a little above 100.
    above = np.histogram(values[values > 0].clip(max=100.0), edges)[0]
    shares = np.array([np.sum(values == 0), *above]) / len(values)
    half = 1.96 * np.sqrt(shares * (1 - shares) / len(values))

    def paint(axes: Axes) -> None:
        places, colour = np.arange(len(shares)), SLICE_COLOURS["all"]
        axes.bar(places, 100 * shares, 0.8, color=colour)
        for place, share, width in zip(places, 100 * shares, 100 * half, strict=True):
            axes.plot([place] * 2, [share - width, share + width], color=INK, linewidth=1.3)
        labels = ["0", *(f"to {edge:.0f}" for edge in edges[1:])]
        axes.set_xticks(places, labels)
        axes.grid(axis="x", visible=False)
        axes.set(
            title="Users by their own NDCG@50",
            xlabel=f"NDCG@50 of a user (%), mean {values.mean():.1f}",
        )
        axes.set(ylabel="users (%), line: 95% interval")
        axes.set_ylim(bottom=0)

    return draw("Share of users by their own test NDCG@50", paint)
