"""The figures of a run's training and test. Each is an <svg> text, or None without data.

Percentages come from summaries and are drawn unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

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
    slice_of,
)
from fedvlr_jax.report.svg import INK, MUTED, PAPER, draw, series_colour


def loss_curve(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Training loss against rounds, one point per evaluation."""
    rounds, values = _series(metrics, lambda line: line.get("loss"))
    if not rounds:
        return None
    labels = {"title": "Training loss", "ylabel": "mean loss of the clients"}
    return _curve("Training loss against rounds", rounds, values, **labels)


def clipped_curve(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """The share of uploads that --clip_norm shortened; None if it shortened none."""
    rounds, values = _series(metrics, lambda line: line.get("clipped"))
    if not any(values):
        return None
    percent = [100 * value for value in values]
    labels = {"title": "Clipped uploads", "ylabel": "% of the uploads", "ylim": (0, 100)}
    return _curve("Share of clipped uploads against rounds", rounds, percent, **labels)


def _curve(name: str, rounds: list[int], values: list[float], **labels: Any) -> str:
    """One line against rounds; `labels` of its axes."""

    def paint(axes: Axes) -> None:
        axes.plot(rounds, values, color=series_colour(0), marker=_marker(rounds), markersize=4)
        axes.set(xlabel="round", **labels)
        _round_axis(axes, rounds)

    return draw(name, paint)


def validation_curve(
    metrics: Sequence[Mapping[str, Any]],
    metric: str,
    selected_round: int | None,
    selected_slice: str = "all",
) -> str | None:
    """A validation metric of all and of warm targets, with a mark at the selected round.

    Args:
      selected_slice: the slice that selected the round; "warm" marks the line of warm targets.
    """
    rounds, values = _series(metrics, lambda line: (line.get("valid") or {}).get(metric))
    if not rounds:
        return None
    warm_rounds, warm = _series(
        metrics, lambda line: slice_of(line.get("valid") or {}, "warm").get(metric)
    )
    label = METRIC_LABELS[metric]

    def paint(axes: Axes) -> None:
        blue, orange = SLICE_COLOURS["all"], SLICE_COLOURS["warm"]
        if warm and warm != values:
            axes.plot(
                warm_rounds,
                warm,
                color=orange,
                linestyle="--",
                marker=_marker(warm_rounds),
                markersize=4,
                label="warm targets",
            )
        axes.plot(
            rounds, values, color=blue, marker=_marker(rounds), markersize=4, label="all targets"
        )
        axes.set(title=f"Validation {label}", xlabel="round", ylabel=f"{label} (%)")
        by_warm = selected_slice == "warm" and warm != values and selected_round in warm_rounds
        at, found = (warm_rounds, warm) if by_warm else (rounds, values)
        if selected_round in at:
            best, colour = found[at.index(selected_round)], orange if by_warm else blue
            axes.axvline(selected_round, color=MUTED, linewidth=0.9, linestyle=":")
            axes.plot([selected_round], [best], "o", color=colour, mec=PAPER, mew=1.5, markersize=9)
            axes.set_title(f"{best:.1f} % at round {selected_round}", loc="right", color=colour)
        if warm and warm != values:
            axes.legend(loc="best")
        _round_axis(axes, rounds)

    return draw(f"Validation {label} against rounds", paint)


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


def _series(
    metrics: Sequence[Mapping[str, Any]], value_of: Callable[[Mapping[str, Any]], Any]
) -> tuple[list[int], list[float]]:
    """The rounds and values of the lines with a value."""
    points = [(line["round"], value_of(line)) for line in metrics]
    points = [(r, v) for r, v in points if v is not None]
    return [r for r, _ in points], [v for _, v in points]


def _marker(rounds: list[int]) -> str:
    return "o" if len(rounds) <= 15 else ""


def _round_axis(axes: Axes, rounds: list[int]) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10]))
    if len(rounds) == 1:  # Else the axis would show fractions of a round.
        axes.set_xlim(rounds[0] - 1, rounds[0] + 1)
