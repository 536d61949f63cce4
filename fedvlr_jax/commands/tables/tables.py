"""Prints a table, and writes it with its numbers and the page of its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as PrintedTable
from rich.text import Text

from fedvlr_jax.commands.tables.page import PAGE, FoundRuns, folder_page
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.report import replace_file
from fedvlr_jax.report.folder import Table


def write_table(
    table: Table, lines: list[dict[str, Any]], stem: Path, runs: FoundRuns | None = None
) -> None:
    """Prints a table and writes it to stem.md, and its numbers to stem.json and stem.csv.

    A number that is not finite is null in the one and an empty cell in the other.

    index.html in the same folder shows the table and the runs below the folder.

    Args:
      lines: the numbers of the table, one dict per row.
      runs: the runs below the folder; None: read them.
    """
    print_table(table)
    title, headings, rows, caption, _ = table
    markdown = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    markdown.insert(1, "|---" * len(headings) + "|")
    write_text(stem.with_suffix(".md"), f"{title}\n\n" + "\n".join(markdown) + f"\n\n{caption}\n")
    strict = _strict(lines)
    write_text(stem.with_suffix(".json"), json.dumps(strict, indent=2, allow_nan=False))
    write_text(stem.with_suffix(".csv"), pd.json_normalize(strict).to_csv(index=False))
    files = [f"{stem.name}{end}" for end in (".md", ".json", ".csv")]
    page = folder_page(stem.parent, table, lines, files, runs)
    write_text(stem.parent / PAGE, page)
    print(f"page: {stem.parent / PAGE}\ntable: {stem}.md, .json, .csv")


def _strict(value: Any) -> Any:
    """The same value with None for numbers that are not finite; JSON has none."""
    if isinstance(value, Mapping):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Width without a terminal.
PRINTED_WIDTH = 80
# Maximum width of a column that every part of a broken table repeats. Folds longer names.
NAME_WIDTH = 28


def print_table(table: Table) -> None:
    """Prints a table at the width of the terminal, or of 80 columns.

    It breaks a wider table between columns. Each part repeats the columns that name its rows.
    """
    console = Console()
    width = console.width if console.is_terminal else PRINTED_WIDTH
    console = Console(width=width)
    title, headings, rows, caption, _ = table
    console.print(title, style="italic", markup=False, highlight=False)
    named = _naming_columns(rows)
    for columns in _column_parts(headings, rows, width, named):
        printed = PrintedTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for place in (*range(named), *columns):
            justify: Any = "left" if place < named else "right"
            most = NAME_WIDTH if place < named else None
            printed.add_column(headings[place], justify=justify, max_width=most, overflow="fold")
        for row in rows:
            printed.add_row(*(Text(row[place]) for place in (*range(named), *columns)))
        console.print(printed)
    console.print(caption, markup=False, highlight=False)


def _naming_columns(rows: Sequence[Sequence[str]]) -> int:
    """The number of first columns that name a row: one, or two where one names several rows."""
    few = lambda columns: len({tuple(row[:columns]) for row in rows})
    return 2 if few(2) > few(1) and min(map(len, rows)) > 2 else 1


def _column_parts(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, named: int
) -> list[list[int]]:
    """The indices of the columns of each part, in order, without the `named` first columns."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    # Two spaces separate columns.
    first = sum(min(wide, NAME_WIDTH) + 2 for wide in widths[:named]) - 2
    parts: list[list[int]] = [[]]
    used = first
    for place, wide in enumerate(widths[named:], named):
        if parts[-1] and used + wide + 2 > width:
            parts.append([])
            used = first
        parts[-1].append(place)
        used += wide + 2
    return parts


def write_text(path: Path, text: str) -> None:
    """Writes the whole file or nothing. Raises InputError if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text.encode())
    except OSError as error:
        raise InputError(f"--workdir: {path} cannot be written: {reason(error)}") from None
