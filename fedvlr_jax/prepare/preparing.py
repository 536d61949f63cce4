"""Prepares a data set from raw files: all steps in order, with their counts."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fedvlr_jax import __version__
from fedvlr_jax.data.faults import shown
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.prepare import filtering, forms, splitting, writing
from fedvlr_jax.prepare.cells import TimeFormat
from fedvlr_jax.prepare.columns import KNOWN, ROLES, UNUSED, Columns, choose_columns
from fedvlr_jax.prepare.items import TITLES, Item, read_items
from fedvlr_jax.prepare.options import LINES, RANDOM, Options
from fedvlr_jax.prepare.reading import iso_time_format, read_interactions
from fedvlr_jax.prepare.rows import Rows
from fedvlr_jax.prepare.tables import Table, first_line, plain_column, table_of
from fedvlr_jax.sealing import file_sha256

# Kinds of tables without separator and header line.
KINDS = {"jsonl": "JSON lines", "parquet": "a Parquet file"}
# Texts that programs write for missing values.
_MISSING = ("nan", "NaN", "null", "NULL", "None", "NA", "N/A", "<NA>")


class Step(NamedTuple):
    """The counts after a step."""

    name: str
    interactions: int
    users: int
    items: int


class Prepared(NamedTuple):
    """A prepared data set.

    Attributes:
      folder: the folder that was written.
      steps: the counts after each step.
      notes: one line for each choice that was made and each input that was left out.
      manifest: the content of manifest.json.
    """

    folder: Path
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any]


def prepare(
    source: str | Path,
    output: str | Path,
    options: Options | None = None,
    *,
    overwrite: bool = False,
    expected: tuple[int, int, int] | None = None,
    described: dict[str, Any] | None = None,
) -> Prepared:
    """Reads raw files and writes a folder that the loader reads.

    A hundred million interactions need 3.3 GB of memory.

    Args:
      source: the file of interactions, or the folder that has it.
      output: the folder to write.
      options: None: the defaults.
      overwrite: replace an earlier result.
      expected: the required numbers of users, items and interactions of the result; None: any.
      described: further entries of the manifest.

    Raises:
      InputError: the input or an option is invalid; one line says where and why. Then nothing is
        written.
    """
    options = options or Options()
    notes: list[str] = []
    try:
        interactions = forms.find_interactions(Path(source), notes)
        item_file = _item_file(interactions, options)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({reason(error)})") from error
    with (
        writing.whole_folder(Path(output), overwrite=overwrite) as folder,
        ThreadPoolExecutor(1) as pool,
    ):
        paths = [interactions, *([item_file] if item_file else [])]
        digests = pool.submit(lambda: [file_sha256(path) for path in paths])
        items = _read_items(item_file, options, notes)
        rows, chosen = _read(interactions, items, options, notes)
        rows, part, steps = _filter(rows, options)
        _check_counts(steps[-1], expected)
        _count_titles(rows, items, notes)
        writing.write_layout(folder, rows, part, items)
        manifest = {
            **(described or {}),
            "form": forms.form_of(interactions),
            "sources": [
                {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}
                for path, digest in zip(paths, digests.result(), strict=True)
            ],
            "columns": chosen,
            "options": {**dataclasses.asdict(options), "items": item_file and item_file.name},
            "steps": [step._asdict() for step in steps],
            "notes": notes,
            "versions": versions(),
        }
        writing.write_manifest(folder, manifest)
    return Prepared(Path(output), tuple(steps), tuple(notes), manifest)


def versions() -> dict[str, str]:
    """The versions of this package, of Python, and of the libraries that affect the bytes."""
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "polars", "scipy")}
    return {
        "fedvlr_jax": __version__,
        "python": platform.python_version(),
        **packages,
    }


def _item_file(interactions: Path, options: Options) -> Path | None:
    if options.items == UNUSED:
        return None
    if options.items:
        path = Path(options.items)
        if not path.is_file():
            raise InputError(f"--items={options.items}: no such file")
        return path
    return forms.find_items(interactions)


def _read_items(path: Path | None, options: Options, notes: list[str]) -> dict[str, Item] | None:
    if path is None:
        if options.item_id or options.title:
            raise InputError("--item_id and --title need a file of items; give --items=FILE")
        notes.append("no file of items, so no titles; give one with --items=FILE")
        return None
    return read_items(path, id_column=options.item_id, title_column=options.title, notes=notes)


def _read(
    path: Path, items: dict[str, Item] | None, options: Options, notes: list[str]
) -> tuple[Rows, dict[str, str]]:
    given = {role: getattr(options, role) for role in ROLES}
    known = KNOWN | {plain_column(name) for name in given.values() if name}
    table = table_of(path, known=known, separator=options.separator, header=options.header)
    for name, value in (("separator", options.separator), ("header", options.header)):
        if table.kind != "delimited" and value not in ("", "auto"):
            raise InputError(
                f"--{name}={value}: does nothing for {path.name}, which is {KINDS[table.kind]}; "
                "leave it out"
            )
    if options.time in (LINES, RANDOM):
        given["time"] = UNUSED
    columns = choose_columns(table, given=given, order=options.columns, item_ids=items, notes=notes)
    if not columns.time and given["time"] != UNUSED:
        raise InputError(
            f"{path}, row 1: no column is known to be the time; the columns are "
            f"{', '.join(table.columns)[:200]}; name it with --time=NAME, or give --time=lines to "
            "take the order of the lines, or --time=random to draw an order"
        )
    notes += _unread(table, columns, options, without_titles=items is None)
    rows = read_interactions(table, columns, _time_format(table, columns, options, notes))
    for role, ids in (("user", rows.user_ids), ("item", rows.item_ids)):
        notes += _doubtful_ids(role, ids)
    if options.time == LINES:
        rows = dataclasses.replace(rows, time=np.arange(len(rows), dtype=np.int64))
    if options.time == RANDOM:
        order = np.random.default_rng(options.seed).permutation(len(rows))
        rows = dataclasses.replace(rows, time=order)
    return rows, columns._asdict()


def _unread(table: Table, columns: Columns, options: Options, *, without_titles: bool) -> list[str]:
    """Lines about a first row that may be a header, and about the columns that are not used."""
    notes, name = [], table.path.name
    unsure = options.columns and options.header == "auto" and table.kind == "delimited"
    if unsure and not table.header:
        notes.append(
            f"{name}: row 1 is read as data: {shown(first_line(table.path))}; if it has the names "
            "of the columns, give --header=yes"
        )
    # The name of a column without one is its position.
    unused = [
        f"column {column} without a name" if table.header and column == str(place) else column
        for place, column in enumerate(table.columns, 1)
        if column not in columns
    ]
    if unused:
        notes.append(f"{name}: columns not used: {', '.join(unused)[:200]}")
    titles = [column for column in unused if plain_column(column) in TITLES]
    if titles and without_titles and options.items != UNUSED:
        notes.append(
            f"{name}: if {titles[0]} is the title of the item, give this file with --items too"
        )
    return notes


def _time_format(table: Table, columns: Columns, options: Options, notes: list[str]) -> TimeFormat:
    given = TimeFormat(options.time_format, options.time_decimals)
    found = iso_time_format(table, columns.time) if columns.time and given == TimeFormat() else ""
    if not found:
        return given
    notes.append(
        f"{table.path.name}: the times are dates of the format {found} (--time_format overrides "
        "this); the result has microseconds"
    )
    return TimeFormat(found)


def _doubtful_ids(role: str, ids: pl.Series) -> list[str]:
    """Lines about ids that may be missing values, or one id in two notations."""
    notes = [
        f"the {role} id {name!r} occurs; if it is a missing value, remove its rows"
        for name in ids.filter(ids.is_in(_MISSING)).to_list()
    ]
    fractions = ids.filter(ids.str.ends_with(".0"))
    both = fractions.filter(fractions.str.strip_suffix(".0").is_in(ids.implode())).to_list()
    if both:
        notes.append(
            f"the {role} ids {both[0].removesuffix('.0')!r} and {both[0]!r} both occur (pairs of "
            f"this kind: {len(both)}); ids are texts, so these are different {role}s"
        )
    return notes


def _filter(rows: Rows, options: Options) -> tuple[Rows, np.ndarray | None, list[Step]]:
    """The remaining rows, the part of each, and the counts after every step."""
    steps = [_count("read", rows)]

    def after(name: str, changed: Rows) -> Rows:
        same = steps[-1]._replace(name=name)
        steps.append(same if changed is rows else _count(name, changed))
        return changed

    if options.duplicates != "keep":
        distinct = filtering.without_repeats(rows, options.duplicates)
        rows = after(f"duplicates: {options.duplicates}", distinct)
    if options.min_rating is not None:
        rated = filtering.with_rating_from(rows, options.min_rating)
        rows = after(f"rating >= {options.min_rating:g}", rated)
    fewest = options.min_user_interactions, options.min_item_interactions
    if options.max_users:
        drawn = filtering.of_some_users(rows, options.max_users, fewest[0], options.seed)
        rows = after(f"at most {options.max_users:,} users", drawn)
    if max(fewest) > 1:
        name = f"users >= {fewest[0]}, items >= {fewest[1]}"
        rows = after(name, filtering.core(rows, *fewest))
    if options.recipe == "mmrec":
        rows = after("recipe: mmrec", splitting.mmrec_recipe(rows))
    split, part = splitting.split_rows(rows, options.split)
    if split is not rows:
        rows = after(f"split: {options.split}", split)
    return rows, part, steps


def _count(name: str, rows: Rows) -> Step:
    users, items = np.count_nonzero(rows.user_counts), np.count_nonzero(rows.item_counts)
    return Step(name, len(rows), int(users), int(items))


def _check_counts(step: Step, expected: tuple[int, int, int] | None) -> None:
    found = (step.users, step.items, step.interactions)
    if expected is not None and found != expected:
        counts = "{:,} users, {:,} items and {:,} interactions"
        raise InputError(
            f"found {counts.format(*found)}, expected the paper's {counts.format(*expected)}; the "
            "source or the options differ from the paper's; --any_counts keeps the result"
        )


def _count_titles(rows: Rows, items: dict[str, Item] | None, notes: list[str]) -> None:
    if items is None:
        return
    kept = rows.item_ids.gather(writing.dense(rows.item_counts)[1]).to_list()
    without = [key for key in kept if not items.get(key, Item("", "")).title]
    if len(without) == len(kept) and kept:
        notes.append(
            f"none of the {len(kept)} items has a title; the first is {kept[0]!r}: does the file "
            "of items belong to these interactions?"
        )
    elif without:
        notes.append(f"{len(without)} of {len(kept)} items have no title, e.g. {without[0]!r}")
