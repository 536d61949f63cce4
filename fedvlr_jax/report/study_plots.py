"""The figures of a study, which compares runs. Each is an <svg> text."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from fedvlr_jax.report.axes import LINE_KINDS, legend_below
from fedvlr_jax.report.labels import shorten
from fedvlr_jax.report.svg import INK, MUTED, draw, series_colour


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
