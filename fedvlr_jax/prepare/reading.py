"""Reads a raw table of interactions into four arrays, in a stream of blocks.

Ids are texts. Times are whole numbers and exact. A block is first read with the usual types; if
that fails, its columns are read as texts and each cell is checked.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from fedvlr_jax.data.faults import fault
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.cells import READ_ERRORS, TimeFormat, by_role, cell_fault, wrong_cells
from fedvlr_jax.prepare.columns import ROLES, Columns
from fedvlr_jax.prepare.dates import iso_format
from fedvlr_jax.prepare.ids import IdTable
from fedvlr_jax.prepare.parquet import parquet_frames
from fedvlr_jax.prepare.rows import GrowingArray, Rows
from fedvlr_jax.prepare.sources import BLOCK_BYTES, Block
from fedvlr_jax.prepare.tables import Table, json_object, records

_UNIT = "\x1f"
# One of the two escapes of a character, such as "\ud83d"; UTF-8 has no bytes for it.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def read_interactions(table: Table, columns: Columns, time_format: TimeFormat) -> Rows:
    """Reads the whole table.

    Raises:
      InputError: the message names the file, the row, the column, the wrong value, and the option
        that may help.
    """
    users, items = IdTable(), IdTable()
    columns_read: dict[str, GrowingArray] = {}
    read = parquet_frames if table.kind == "parquet" else _frames
    with ThreadPoolExecutor(2) as pool:
        for frame in _prefetched(read(table, columns, time_format), pool):
            if not columns_read:
                expected = _expected_rows(table, frame.height)
                columns_read = {role: GrowingArray(expected) for role in ROLES}
            user_codes = pool.submit(users.codes, frame["user"])
            columns_read["item"].append(items.codes(frame["item"]))
            columns_read["user"].append(user_codes.result())
            if columns.rating:
                columns_read["rating"].append(_smallest_float(frame["rating"].to_numpy()))
            if columns.time:
                columns_read["time"].append(frame["time"].to_numpy())
    if not len(users):
        raise InputError(f"{table.path}: no rows of interactions")
    return Rows(
        user=columns_read["user"].array,
        item=columns_read["item"].array,
        rating=columns_read["rating"].array if columns.rating else None,
        time=columns_read["time"].array if columns.time else None,
        user_ids=users.texts,
        item_ids=items.texts,
    )


def iso_time_format(table: Table, column: str) -> str:
    """The format of the dates of ISO 8601 in a column, by its first value; "" for other values."""
    columns = Columns("", "", "", column)
    first: object = None
    if table.kind == "parquet":
        lazy = pl.scan_parquet(table.path)
        if lazy.collect_schema()[column] == pl.String:
            first = next(iter(lazy.select(column).head(1).collect().to_series()), None)
    else:
        for block in _content(table):
            first = next((fields[0] for _, fields in _cells(table, columns, block)), None)
            break
    return iso_format(str(first or "").strip())


def _prefetched(frames: Iterator[pl.DataFrame], pool: ThreadPoolExecutor) -> Iterator[pl.DataFrame]:
    """The frames; a thread reads the next frame while the caller processes the current one."""
    following = pool.submit(next, frames, None)
    while (frame := following.result()) is not None:
        following = pool.submit(next, frames, None)
        yield frame


def _expected_rows(table: Table, first_block: int) -> int:
    """About the number of rows of the file, from the number in its first block; at least that."""
    blocks_of_file = table.path.stat().st_size / BLOCK_BYTES
    if table.kind == "parquet" or blocks_of_file < 1:
        return first_block
    # Later lines may be shorter. Unused memory is never allocated.
    return int(1.05 * first_block * blocks_of_file)


def _smallest_float(values: np.ndarray) -> np.ndarray:
    short = values.astype(np.float32)
    return short if np.array_equal(short, values) else values


def _frames(table: Table, columns: Columns, time_format: TimeFormat) -> Iterator[pl.DataFrame]:
    """One frame for each block of a text file, with a column for each role."""
    typed = not time_format.text and not time_format.decimals
    for block in _content(table):
        frame = _typed_frame(table, columns, block) if typed else None
        if frame is None:
            frame = _checked_frame(table, columns, time_format, block)
        yield frame


def _content(table: Table) -> Iterator[Block]:
    """The blocks of a text file without its header; none is blank."""
    found = table.blocks()
    if table.header and (first := next(found, None)) is not None:
        found = itertools.chain([_without_header(first)], found)
    for block in found:
        if block.text and not block.text.isspace():
            yield block


def _without_header(block: Block) -> Block:
    """The block after its first line that is not blank."""
    start = 0
    while True:
        end = block.text.find(b"\n", start) + 1
        line = block.text[start : end or None]
        start = end or len(block.text)
        if line.strip() or not end:
            return Block(block.text[start:], block.line + block.text.count(b"\n", 0, start))


def _schema(columns: Columns) -> dict[str, pl.DataType]:
    types = {"user": pl.String, "item": pl.String, "rating": pl.Float64, "time": pl.Int64}
    return {name: types[role]() for role, name in columns._asdict().items() if name}


def _parse(table: Table, text: bytes, schema: dict[str, pl.DataType]) -> pl.DataFrame:
    if table.kind == "jsonl":
        return pl.read_ndjson(text, schema=schema)
    separator = table.separator
    if len(separator) > 1:
        text, separator = text.replace(separator.encode(), _UNIT.encode()), _UNIT
    return pl.read_csv(
        text,
        has_header=False,
        schema={name: schema.get(name, pl.String()) for name in table.columns},
        separator=separator,
        quote_char='"' if table.quoted else None,
    )


def _typed_frame(table: Table, columns: Columns, block: Block) -> pl.DataFrame | None:
    """The block, read with the usual types; None if a cell has another type."""
    if table.kind == "jsonl" and _rewritten_ids(columns).search(block.text):
        return None
    try:
        frame = by_role(_parse(table, block.text, _schema(columns)), columns)
    except READ_ERRORS:
        return None
    if table.kind == "jsonl" and any(_not_plain(frame[role]) for role in ("user", "item")):
        return None
    return frame if _usable(frame, table, block) else None


@functools.cache
def _rewritten_ids(columns: Columns) -> re.Pattern[bytes]:
    """Finds ids in JSON that the fast reader writes in another form: 1.0, 1e3, -0 and true."""
    # A name may be escaped, such as "caf\u00e9", or written out.
    names = {json.dumps(name, ensure_ascii=pure) for name in columns[:2] for pure in (True, False)}
    keys = b"|".join(re.escape(name.encode()) for name in sorted(names))
    return re.compile(rb"(?:" + keys + rb")\s*:\s*(?:-?\d+[.eE]|-0|[tf])")


def _not_plain(texts: pl.Series) -> bool:
    """Whether a text may be a JSON object or list, or half a character, which becomes a NUL."""
    objects = texts.str.starts_with("{") | texts.str.starts_with("[")
    return (objects | texts.str.contains("\0", literal=True)).any()


# ASCII blanks, and the marks that may enclose or stand for others.
_BLANKS = (b" ", b"\t", b"\v", b"\f", b"\r", b'"')


def _usable(frame: pl.DataFrame, table: Table, block: Block) -> bool:
    """Whether no cell is empty, no id has surrounding blanks, and all ratings are finite."""
    if any(series.null_count() for series in frame):
        return False
    if "rating" in frame.columns and not np.isfinite(frame["rating"].to_numpy()).all():
        return False
    ids = (frame["user"], frame["item"])
    if any((series.str.len_bytes() == 0).any() for series in ids):
        return False
    # Unquoted, no field holds the separator, which may be a tab or a space.
    blanks = (blank for blank in _BLANKS if blank != table.separator.encode())
    if block.text.isascii() and not any(blank in block.text for blank in blanks):
        return True
    return all(series.equals(series.str.strip_chars()) for series in ids)


def _text_frame(table: Table, columns: Columns, block: Block) -> pl.DataFrame | None:
    """The block with its columns as texts; None if the fast reader fails."""
    texts: dict[str, pl.DataType] = dict.fromkeys(_schema(columns), pl.String())
    try:
        return by_role(_parse(table, block.text, texts), columns)
    except READ_ERRORS:
        return None


def _checked_frame(
    table: Table, columns: Columns, time_format: TimeFormat, block: Block
) -> pl.DataFrame:
    """The block, with each cell read as text and checked."""
    frame = None if table.kind == "jsonl" else _text_frame(table, columns, block)
    cells = None
    # The fast reader may pad or skip a malformed row; the slow reader finds the row.
    if frame is None or any(series.null_count() for series in frame):
        cells = list(_cells(table, columns, block))
        data = [fields for _, fields in cells]
        schema = {role: pl.String for role in ROLES if getattr(columns, role)}
        frame = pl.DataFrame(data, schema=schema, orient="row")
    frame = frame.with_columns(pl.col("user", "item").cast(pl.String).str.strip_chars())
    wrong = wrong_cells(frame, time_format)
    for role, (series, bad) in wrong.items():
        if bad.any():
            place = int(bad.arg_max() or 0)
            line = (cells or list(_cells(table, columns, block)))[place][0]
            found = frame[role][place]
            raise cell_fault(table, columns, time_format, role, line, found)
        frame = frame.with_columns(series.alias(role))
    return frame


def _cells(table: Table, columns: Columns, block: Block) -> Iterator[tuple[int, list[str | None]]]:
    """(line, texts in the order of the roles) of every record of the block."""
    names = [name for name in columns if name]
    text = block.text.decode("utf-8")
    if table.kind == "jsonl":
        for number, line in enumerate(text.split("\n"), start=block.line):
            if line.strip():
                row = json_object(table.path, number, line)
                for name in names:
                    if isinstance(row.get(name), dict | list):
                        right = "a text or a number, not an object or a list"
                        raise fault(table.path, number, name, row[name], right)
                    if _HALF_CHARACTER.search(str(row.get(name))):
                        right = "a text of whole characters"
                        raise fault(table.path, number, name, row[name], right)
                yield number, [None if row.get(n) is None else str(row[n]) for n in names]
        return
    places = [table.columns.index(name) for name in names]
    for number, fields in records(table, text, block.line):
        yield number, [fields[place] or None for place in places]
