"""The figures of a report. Each is an <svg> text, or None without data.

Percentages come from summaries and are drawn unchanged; weights are shares in [0, 1].
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from fedvlr_jax.report.results import (
    LEAST_USERS,
    METRIC_LABELS,
    SLICE_LABELS,
    estimate,
    merged_groups,
    methods,
    shown_slices,
    slice_of,
)
from fedvlr_jax.report.svg import GRID, INK, MUTED, PAPER, draw, series_colour

# All figures of a report use the same colours: first those of the slices, then those of the views.
SLICE_COLOURS = {"all": series_colour(0), "warm": series_colour(1), "cold": series_colour(7)}
# Maximum numbers of marks: more do not fit on a screen.
MOST_CLIENTS_DRAWN = 400
MOST_POINTS_DRAWN = 800
LINE_KINDS: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))


def view_colour(place: int) -> str:
    """The colour of the view number `place`."""
    return series_colour(2 + place)


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
    metrics: Sequence[Mapping[str, Any]], metric: str, selected_round: int | None
) -> str | None:
    """A validation metric of all and of warm targets, with a mark at the selected round."""
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
        if selected_round in rounds:
            best = values[rounds.index(selected_round)]
            axes.axvline(selected_round, color=MUTED, linewidth=0.9, linestyle=":")
            axes.plot([selected_round], [best], "o", color=blue, mec=PAPER, mew=1.5, markersize=9)
            axes.set_title(f"{best:.1f} % at round {selected_round}", loc="right", color=blue)
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


def interval_bars(title: str, bars: Sequence[tuple[str, float, Sequence[float]]]) -> str:
    """One bar per method: (name, value in percent, 95% interval), from top to bottom."""

    def paint(axes: Axes) -> None:
        for place, (_, value, interval) in enumerate(bars):
            axes.barh(place, value, 0.7, color=series_colour(0), alpha=0.6)
            axes.plot(interval, [place] * 2, color=INK, linewidth=1.3)
        axes.set_yticks(range(len(bars)), [shorten(name) for name, _, _ in bars])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(bars) - 0.45, -0.55)
        axes.set_xlim(left=0)
        axes.set(title=title, xlabel="percent, line: 95% CI over users")

    return draw(title, paint, height=1.3 + 0.26 * len(bars))


def attack_bars(attacks: Sequence[str], bars: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    """For each defence a bar per attack: (name, the result of each attack or None)."""
    size = 0.8 / len(attacks)

    def paint(axes: Axes) -> None:
        for number, attack in enumerate(attacks):
            shift = (number - (len(attacks) - 1) / 2) * size
            reached = [values[number] or 0.0 for _, values in bars]
            places = [place + shift for place in range(len(bars))]
            colour = series_colour(number)
            axes.barh(places, reached, 0.9 * size, color=colour, alpha=0.7, label=attack)
        axes.legend(fontsize=7, loc="lower right")
        axes.set_yticks(range(len(bars)), [shorten(name) for name, *_ in bars])
        axes.grid(axis="y", visible=False)
        axes.set_ylim(len(bars) - 0.45, -0.55)
        axes.set_xlim(0, 1)
        axes.set(title="attacks", xlabel="F1 of the histories; AUC of membership (chance 0.5)")

    return draw("attacks", paint, height=1.3 + 0.7 * len(bars))


def loglog_lines(
    title: str, rounds: Sequence[int], curves: Mapping[tuple[str, str], Sequence[float]]
) -> str:
    """Positive curves over rounds on logarithmic axes, with a reference line that falls as 1/sqrt.

    curves: by a pair of names. The first name sets the colour, the second the kind of line.
    """
    colours = {name: series_colour(n) for n, name in enumerate(dict.fromkeys(c for c, _ in curves))}
    kinds = dict(zip(dict.fromkeys(k for _, k in curves), itertools.cycle(LINE_KINDS)))

    def paint(axes: Axes) -> None:
        for (colour, kind), values in curves.items():
            line = {"color": colours[colour], "linestyle": kinds[kind]}
            axes.loglog(rounds, values, linewidth=1.4, **line)
        top = max(values[0] for values in curves.values())
        bound = [top / np.sqrt(t / rounds[0]) for t in rounds]
        axes.loglog(rounds, bound, color=INK, linestyle="--", linewidth=1.0)
        axes.set(title=title, xlabel="rounds T")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        legend_below(
            axes,
            [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
            + [Line2D([], [], color=MUTED, linestyle=k, label=name) for name, k in kinds.items()]
            + [Line2D([], [], color=INK, linestyle="--", linewidth=1.0, label="1/sqrt(T)")],
        )

    return draw(title, paint, width=6.0, height=4.2)


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
        _group_ticks(axes, {name: sum(counts[n] for n in of) for name, of in groups.items()})
        axes.set(title="Test metrics by activity", ylabel="mean (%), line: 95% interval")
        axes.set_ylim(bottom=0)
        legend_below(axes)

    return draw("Test metrics by activity group", paint)


def _half_interval(users: Mapping[str, np.ndarray], metric: str, names: Sequence[str]) -> float:
    """Half the 95% interval of a mean over the users of some groups, in percent, by the normal
    distribution; 0 if it is unknown."""
    if metric not in users or "history_length" not in users:
        return 0.0
    chosen = np.any([_in_group(users["history_length"], name) for name in names], axis=0)
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


def router_strip(users: Mapping[str, np.ndarray], views: Sequence[str]) -> str | None:
    """Every client's view weights as one stack. Sorts the clients by the view that varies most.

    Draws at most `MOST_CLIENTS_DRAWN` clients, evenly spaced in that order.
    """
    weights = _weights(users, "router_weights", views)
    if weights is None:
        return None
    first = int(weights.std(axis=0).argmax())
    order = np.lexsort((*weights.T, weights[:, first]))[::-1]
    chosen = order[_evenly_spaced(len(order), MOST_CLIENTS_DRAWN)]
    stacked = [first, *(g for g in range(len(views)) if g != first)]
    tops = np.cumsum(weights[chosen][:, stacked], axis=1)
    edges = np.linspace(0, len(weights), len(chosen) + 1)

    def paint(axes: Axes) -> None:
        bottom = np.zeros(len(chosen))
        for column, view in enumerate(stacked):
            axes.stairs(
                tops[:, column],
                edges,
                baseline=bottom,
                fill=True,
                color=view_colour(view),
                linewidth=0,
            )
            bottom = tops[:, column]
        sorted_by = f"clients, sorted by the weight of {views[first]}"
        if len(chosen) < len(weights):
            sorted_by += f" ({len(chosen)} of {len(weights):,} drawn)"
        axes.set(title="Router weights of each client", xlabel=sorted_by, ylabel="weight")
        axes.set(xlim=(0, len(weights)), ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(visible=False)
        patches = [Patch(color=view_colour(g), label=shorten(views[g])) for g in stacked]
        legend_below(axes, patches)

    return draw("Router weights of each client, stacked", paint)


def router_by_activity(
    users: Mapping[str, np.ndarray], views: Sequence[str], groups: Sequence[str]
) -> str | None:
    """Mean weight of each view, plus and minus one standard deviation over clients.

    Args:
      users: the arrays of users.npz.
      views: G view names, the columns of "router_weights".
      groups: activity groups by their names in a summary, such as "11-20" and "501+".
    """
    weights = _weights(users, "router_weights", views)
    if weights is None or "history_length" not in users:
        return None
    length = users["history_length"]
    in_group = {name: _in_group(length, name) for name in groups}
    joined = merged_groups({name: int(chosen.sum()) for name, chosen in in_group.items()})
    members = {
        name: np.any([in_group[each] for each in names], axis=0) for name, names in joined.items()
    }
    if not members:
        return None

    def paint(axes: Axes) -> None:
        places, thickness = np.arange(len(members)), 0.8 / len(views)
        for g, view in enumerate(views):
            axes.bar(
                places + (g - (len(views) - 1) / 2) * thickness,
                [weights[chosen, g].mean() for chosen in members.values()],
                0.9 * thickness,
                yerr=[weights[chosen, g].std() for chosen in members.values()],
                color=view_colour(g),
                ecolor=INK,
                error_kw={"linewidth": 1},
                label=shorten(view),
            )
        _group_ticks(axes, {name: int(chosen.sum()) for name, chosen in members.items()})
        axes.set(title="Router weights by activity", ylabel="weight (mean ± sd)")
        axes.set_ylim(bottom=0)
        legend_below(axes)

    return draw("Mean router weights by activity group", paint)


def planted_scatter(
    users: Mapping[str, np.ndarray], views: Sequence[str], view: str, spearman: float | None
) -> str | None:
    """Learned against planted weight of one view, one point per client (synthetic data only).

    Draws at most `MOST_POINTS_DRAWN` clients; `spearman` is over all clients.
    """
    learned = _weights(users, "router_weights", views)
    planted = _weights(users, "planted", views)
    if learned is None or planted is None or view not in views:
        return None
    g = list(views).index(view)
    if np.isnan(planted[:, g]).any():  # A fused view: no preference for it is planted.
        return None
    shown = _evenly_spaced(len(learned), MOST_POINTS_DRAWN)

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.2)
        axes.plot(
            planted[shown, g],
            learned[shown, g],
            linestyle="none",
            marker="o",
            color=view_colour(g),
            alpha=0.45,
            markersize=4,
            markeredgewidth=0,
        )
        axes.set(title=f"View: {shorten(view)}", xlabel="planted weight", ylabel="learned weight")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        if spearman is not None:
            spread = learned[:, g].std()
            axes.set_title(f"Spearman {spearman:.2f}, sd {spread:.3f}", loc="right")

    return draw(f"Learned against planted weight of {view}", paint, width=3.6, height=3.2)


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


def _group_ticks(axes: Axes, users: Mapping[str, int]) -> None:
    """Labels the x axis with the activity groups, and below each with its number of users."""
    counts = [f"{n:,}" if n < 10_000 else f"{n / 1000:,.0f}k" for n in users.values()]
    labels = [f"{name}\n{count}" for name, count in zip(users, counts, strict=True)]
    axes.set_xticks(range(len(users)), labels)
    axes.set_xlabel("train interactions; below: number of users")
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0, labelsize=8.5)


def legend_below(axes: Axes, handles: Sequence[Artist] | None = None, columns: int = 4) -> None:
    """A legend below the axes; by default of the drawn artists."""
    chosen = axes.get_legend_handles_labels()[0] if handles is None else handles
    axes.figure.legend(
        handles=chosen,
        loc="outside lower center",
        ncols=min(columns, len(chosen)),
        handlelength=1.1,
        handleheight=0.9,
    )


def _weights(users: Mapping[str, np.ndarray], name: str, views: Sequence[str]) -> np.ndarray | None:
    """float64 [N, G]; None if there are no weights for `views`."""
    weights = np.asarray(users.get(name, np.zeros((0, 0))), np.float64)
    fits = weights.ndim == 2 and len(weights) > 0 and weights.shape[1] == len(views)
    return weights if fits else None


def _evenly_spaced(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _in_group(length: np.ndarray, name: str) -> np.ndarray:
    """bool [N]: whether each history length is in the group "low-high" or "low+"."""
    low, _, high = name.rstrip("+").partition("-")
    return (length >= int(low)) & (length <= (float(high) if high else np.inf))


def telling(labels: Sequence[str]) -> list[str]:
    """The labels of choices without the parts "name=value" that all of them have.

    Parts are joined by a space, or by "-" as in the name of a folder.
    """
    parts = [re.split(r"[ -](?=\w+=)", label) for label in labels]
    shared = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    short = [" ".join(part for part in own if part not in shared) for own in parts]
    return short if all(short) else list(labels)


def in_lines(name: str, width: int = 26) -> str:
    """The name in at most two lines of `width` characters."""
    lines = textwrap.wrap(name, width)
    return "\n".join([*lines[:1], *([shorten(" ".join(lines[1:]), width)] if lines[1:] else [])])


def shorten(name: str, most: int = 22) -> str:
    """The first `most` characters of the name."""
    return name if len(name) <= most else name[: most - 1] + "…"
