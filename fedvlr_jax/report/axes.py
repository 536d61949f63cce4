"""The parts that figures share: colours, kinds of lines, ticks and the legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from fedvlr_jax.report.svg import series_colour

# All figures of a report use the same colours: first those of the slices, then those of the views.
SLICE_COLOURS = {"all": series_colour(0), "warm": series_colour(1), "cold": series_colour(7)}
LINE_KINDS: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))


def view_colour(place: int) -> str:
    """The colour of the view number `place`."""
    return series_colour(2 + place)


def group_ticks(axes: Axes, users: Mapping[str, int]) -> None:
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
