"""The results of a run as a table on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedvlr_jax.report.results import (
    METRIC_LABELS,
    SLICE_LABELS,
    Estimate,
    Method,
    estimate,
    judged_slice,
    methods,
    shown_slices,
    skipped_baselines,
    slice_of,
)

Column = tuple[str, str]  # (slice, metric)


def columns(summary: Mapping[str, Any]) -> list[Column]:
    """The (slice, metric) pairs that the results table shows."""
    return [(name, metric) for name in shown_slices(summary) for metric in METRIC_LABELS]


def best_values(rows: list[Method], shown: list[Column]) -> dict[Column, float]:
    """The largest value of each column; without columns that have no value."""
    best = {}
    for slice_name, metric in shown:
        values = [e.value for row in rows if (e := estimate(row.test, metric, slice_name))]
        if values:
            best[slice_name, metric] = max(values)
    return best


def table_caption(summary: Mapping[str, Any]) -> str:
    """The caption: protocol, users of each slice, units and interval."""
    test = summary.get("test") or {}
    counts = ", ".join(
        f"{slice_of(test, name).get('users', 0):,} with {SLICE_LABELS[name]}"
        if name != "all"
        else f"{test.get('users', 0):,} users"
        for name in shown_slices(summary)
    )
    caption = (
        f"Test part in percent over {counts}; protocol {summary.get('protocol', 'not recorded')}, "
        f"seed {summary.get('seed', 'not recorded')}; 95% bootstrap interval over users."
    )
    return caption if len(shown_slices(summary)) > 1 else caption + " No target is cold."


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The model and its baselines, best first, for a terminal of 80 columns or more.

    It has HR@50 and NDCG@50 in percent over all, warm and cold targets, with the 95% interval
    below each value. The best value of a column is bold. Slices without users have no column.
    """
    rows, shown = methods(summary), columns(summary)
    best = best_values(rows, shown)
    table = Table(
        title=Text(f"{summary.get('dataset', 'unnamed data set')}: test results"),
        caption=Text(_with_skipped(table_caption(summary), summary)),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("method", no_wrap=False)
    for slice_name, metric in shown:
        table.add_column(f"{slice_name}\n{METRIC_LABELS[metric]}", justify="right", no_wrap=True)
    for row in rows:
        name = Text(row.name, style="bold cyan" if row.is_model else "")
        if row.options:
            name.append(f"\n{row.options}", style="dim")
        cells = [
            _cell(estimate(row.test, metric, part), best.get((part, metric)))
            for part, metric in shown
        ]
        table.add_row(name, *cells)
    return table


def cutoff_table(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and one row per method: HR and NDCG at every cut-off, on the judged slice."""
    rows, judged = methods(summary), judged_slice(summary)
    known = slice_of(summary.get("test") or {}, judged)
    cutoffs = sorted(int(name[3:]) for name in known if name.startswith("hr@"))
    shown = [f"{metric}@{k}" for k in cutoffs for metric in ("hr", "ndcg")]
    cells = []
    for row in rows:
        found = [estimate(row.test, metric, judged) for metric in shown]
        cells.append([row.name, *("–" if e is None else f"{e.value:.1f}" for e in found)])
    return ["method", *(metric.upper() for metric in shown)], cells


def _terminal_cutoffs(summary: Mapping[str, Any]) -> Table:
    headings, rows = cutoff_table(summary)
    table = Table(
        title=Text(f"Every cut-off, {judged_slice(summary)} targets, percent"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=place > 0)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints `summary_table` to the console, stdout by default."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            # A log has no width, so do not cut names.
            console = Console(width=120)
    console.print(summary_table(summary))
    if len(cutoff_table(summary)[0]) > 3:
        console.print(_terminal_cutoffs(summary))


def _cell(found: Estimate | None, best: float | None) -> Text:
    if found is None:
        return Text("–", style="dim")
    cell = Text(f"{found.value:.1f}", style="bold" if found.value == best else "")
    if interval := _interval(found):
        cell.append(f"\n{interval}", style="dim not bold")
    return cell


def _interval(found: Estimate | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{found.low:.1f}–{found.high:.1f}"


def _with_skipped(caption: str, summary: Mapping[str, Any]) -> str:
    skipped = "; ".join(f"{name} ({why})" for name, why in skipped_baselines(summary).items())
    return f"{caption} Not run: {skipped}." if skipped else caption
