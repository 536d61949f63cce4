"""The page of a folder of runs: curves with seed bands, paired differences, budgets, members."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedvlr_jax.report.axes import LINE_KINDS, legend_below
from fedvlr_jax.report.html import environment, figures
from fedvlr_jax.report.labels import shorten, telling
from fedvlr_jax.report.svg import draw, series_colour

# Maximum number of lines in a figure: the number of colours.
MOST_DRAWN = 8


class Run(NamedTuple):
    """One member: the name of its folder, the link to its report ("": none), and its end state."""

    name: str
    link: str
    state: str


class Group(NamedTuple):
    """Runs that differ only in their seed.

    Attributes:
      label: of the choice. dataset: its name.
      runs: the members.
      curves: of each member, (round, validation value in percent) of every evaluation.
      valid: the validation value in percent of each finished member.
      selected: the selected round of each finished member.
      rounds: trained, over all members.
      command: trains only the first member; "" if unknown.
      differ: whether users differ in the first finished member; "" without routers.
    """

    label: str
    dataset: str
    runs: Sequence[Run]
    curves: Sequence[Sequence[tuple[int, float]]]
    valid: Sequence[float]
    selected: Sequence[int]
    rounds: int
    command: str
    differ: str = ""

    @property
    def mean(self) -> float | None:
        """Mean validation value over the finished members; None without one."""
        return float(np.mean(self.valid)) if self.valid else None


class Table(NamedTuple):
    """A comparison as `commands.tables.tables.write_table` prints it.

    Attributes:
      chosen: whether validation chooses among the rows; if not, the page says so.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    chosen: bool = True


def best_groups(groups: Sequence[Group]) -> list[Group]:
    """The group with the highest mean validation value of each data set."""
    found: dict[str, Group] = {}
    for group in groups:
        known = found.get(group.dataset)
        if group.mean is not None and (known is None or group.mean > (known.mean or 0.0)):
            found[group.dataset] = group
    return list(found.values())


def differences(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each paired comparison among the lines of a table, with "of" and "against".

    Omits comparisons without a user who has a target in both.
    """
    rows = []
    for line in lines:
        for found in (line, line.get("vanilla"), line.get("baseline")):
            if found and "p_holm" in found and math.isfinite(found.get("gain", math.nan)):
                of = (line.get("baseline_of") or {}).get("title", line["choice"])
                if found["against"] == of:
                    # An ablation compares its method, the first line, with each control.
                    of = lines[0]["choice"]
                data = f"{line['dataset']}: " if "dataset" in line else ""
                rows.append({**found, "of": f"{data}{of}"})
    return rows


def sentence(groups: Sequence[Group], compared: Sequence[Mapping[str, Any]], label: str) -> str:
    """The first sentence of the page: the best choice on validation, and the number of significant
    differences."""
    best = best_groups(groups)
    if not best:
        return "No run of this folder has finished."
    parts = []
    for group in best:
        data = f"{group.dataset}: " if len(best) > 1 else ""
        of_data = {g.label: g.mean for g in groups if g.dataset == group.dataset}
        if len(of_data) == 1:
            first = f"{group.label}, the only choice, has a validation {label} of"
            parts.append(f"{data}{first} {group.mean:.2f} %.")
            continue
        alike = [name for name, mean in of_data.items() if mean == group.mean]
        alike.remove(group.label)
        also = alike[0] if len(alike) == 1 else f"{len(alike)} others"
        have = f" and {also} have the same" if alike else " has the"
        parts.append(
            f"{data}{group.label}{have} best validation {label} of {len(of_data)} choices: "
            f"{group.mean:.2f} %."
        )
    if compared:
        parts.append(_remaining(compared))
    return " ".join(parts)


def _remaining(compared: Sequence[Mapping[str, Any]]) -> str:
    """How many paired differences remain after the correction, and in which direction."""
    clear = [row["gain"] > 0 for row in compared if row["p_holm"] < 0.05]
    against = {row["against"] for row in compared}
    directions = ""
    if clear and len(against) == 1:
        above, (first,) = sum(clear), against
        directions = f" ({above} above and {len(clear) - above} below {first})"
    return (
        "Paired differences on the test part that remain after Holm's correction at 5 %: "
        f"{len(clear)} of {len(compared)}{directions}."
    )


def beside_baselines(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence per data set: the chosen line beside the baseline that validation chooses."""
    found = []
    for chosen in (line for line in lines if line.get("chosen")):
        data = chosen.get("dataset")
        baselines = [
            line for line in lines if "baseline_of" in line and line.get("dataset") == data
        ]
        metric = f"{chosen.get('slice', 'all')}_ndcg@50"
        if not baselines or metric not in chosen:
            continue
        best = max(baselines, key=lambda line: line["valid"])
        of = "" if chosen["slice"] == "all" else f"{chosen['slice']} "
        tested = (
            f"p = {best['p_holm']:.2g} after Holm's correction"
            if best.get("against") == chosen["choice"]
            else "not tested against each other here"
        )
        found.append(
            f"{f'{data}: ' if data else ''}{chosen['choice']} has {chosen[metric]:.1f} % test "
            f"{of}NDCG@50, and {best['baseline_of']['title']}, the best baseline on validation "
            f"({best['baseline_of']['trained']}), has {best[metric]:.1f} %: {tested}."
        )
    return found


def _differ(best: Sequence[Group]) -> list[str]:
    return [f"{group.label}: {group.differ}" for group in best if group.differ]


def curve_figures(groups: Sequence[Group], label: str) -> list[str]:
    """One figure per data set: the mean over seeds, with a band from the lowest to the highest."""
    by_dataset: dict[str, list[Group]] = {}
    for group in groups:
        if any(group.curves):
            by_dataset.setdefault(group.dataset, []).append(group)
    return [_curves(name, found, label) for name, found in by_dataset.items()]


def _curves(dataset: str, groups: Sequence[Group], label: str) -> str:
    drawn = sorted(groups, key=lambda group: -(group.mean or 0.0))[:MOST_DRAWN]
    shown = "" if len(drawn) == len(groups) else f", the best {len(drawn)} of {len(groups)}"
    title = f"{dataset}: validation {label}{shown}"

    def paint(axes: Axes) -> None:
        handles = []
        labels = telling([group.label for group in drawn])
        for place, group in enumerate(drawn):
            colour, kind = series_colour(place), LINE_KINDS[place % len(LINE_KINDS)]
            rounds, low, mean, high = _band(group.curves)
            axes.fill_between(rounds, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(rounds, mean, color=colour, linestyle=kind, linewidth=1.5)
            if len(rounds) == 1:
                axes.plot(rounds, mean, color=colour, marker="o")
            handles.append(
                Line2D([], [], color=colour, linestyle=kind, label=textwrap.fill(labels[place], 60))
            )
        axes.set(title=shorten(title, 60), xlabel="round", ylabel=f"{label} (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        legend_below(axes, handles, columns=1)

    return draw(title, paint, height=3.2 + 0.18 * len(drawn))


class _Band(NamedTuple):
    """The values of the members that reached each round; lists of equal length."""

    rounds: list[int]
    low: list[float]
    mean: list[float]
    high: list[float]


def _band(curves: Sequence[Sequence[tuple[int, float]]]) -> _Band:
    by_round: dict[int, list[float]] = {}
    for curve in curves:
        for round_number, value in curve:
            by_round.setdefault(round_number, []).append(value)
    rounds = sorted(by_round)
    values = [by_round[number] for number in rounds]
    low, high = ([pick(v) for v in values] for pick in (min, max))
    return _Band(rounds, low, [float(np.mean(v)) for v in values], high)


def render_folder(
    table: Table,
    lines: Sequence[Mapping[str, Any]],
    groups: Sequence[Group],
    *,
    label: str,
    unread: Sequence[str] = (),
    files: Sequence[str] = (),
) -> str:
    """The page as HTML text. It contains style and figures, and links only to the members' reports.

    Args:
      lines: of the table, as `commands.tables.comparison.compare` returns them.
      label: of the validation metric.
      unread: one line for each member that could not be read.
      files: names of other files of the folder, to link.
    """
    compared = differences(lines)
    against = {row["against"] for row in compared}
    page = environment().get_template("folder.html.j2")
    best = best_groups(groups) if table.chosen else []
    first = "Validation chooses nothing in this table."
    return page.render(
        table=table,
        sentence=sentence(groups, compared, label) if table.chosen else first,
        answers=[*beside_baselines(lines), *_differ(best)],
        curves=figures(curve_figures(groups, label)),
        compared=compared,
        against=against.pop() if len(against) == 1 else "",
        groups=sorted(groups, key=lambda group: (group.dataset, -(group.mean or -1.0))),
        best=best,
        runs=sum(len(group.runs) for group in groups),
        rounds=sum(group.rounds for group in groups),
        label=label,
        unread=unread,
        files=files,
    )
