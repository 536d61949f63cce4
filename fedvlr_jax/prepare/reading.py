"""Reads a raw table of interactions into four arrays, in a stream of blocks.

Ids are texts. Times are whole numbers and exact. A block is first read with the usual types; if
that fails, its columns are read as texts and each cell is checked.
"""

from __future__ import annotations

import contextlib
import decimal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import polars as pl

from fedvlr_jax.data.files import fault
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.columns import ROLES, Columns
from fedvlr_jax.prepare.ids import IdTable
from fedvlr_jax.prepare.rows import GrowingArray, Rows
from fedvlr_jax.prepare.sources import BLOCK_BYTES, Block, blocks
from fedvlr_jax.prepare.tables import Table, json_object, records

_UNIT = "\x1f"
_PARQUET_ROWS = 1 << 20
_LAST_TIME = 2**62
_READ_ERRORS = (pl.exceptions.PolarsError, ValueError)


class TimeFormat(NamedTuple):
    """The format of times.

    Attributes:
      text: a date format such as "%Y-%m-%d %H:%M:%S"; the result is in microseconds since 1970. ""
        for numbers.
      decimals: the number of decimal places of numbers; the result is in units of 10^-decimals.
    """

    text: str = ""
    decimals: int = 0


def read_interactions(table: Table, columns: Columns, time_format: TimeFormat) -> Rows:
    """Reads the whole table.

    Raises:
      InputError: the message names the file, the row, the column, the wrong value, and the option
        that may help.
    """
    users, items = IdTable(), IdTable()
    columns_read: dict[str, GrowingArray] = {}
    read = _parquet if table.kind == "parquet" else _frames
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
    header = table.header
    typed = not time_format.text and not time_format.decimals
    for block in blocks(table.path, quoted=table.quoted):
        if header:
            header = False
            block = _without_header(table, block)
        if block.text.isspace() or not block.text:
            continue
        frame = _typed_frame(table, columns, block) if typed else None
        if frame is None:
            frame = _checked_frame(table, columns, time_format, block)
        yield frame


def _without_header(table: Table, block: Block) -> Block:
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


def _by_role(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    named = [(role, name) for role, name in columns._asdict().items() if name]
    return frame.select(pl.col(name).alias(role) for role, name in named)


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
    try:
        frame = _by_role(_parse(table, block.text, _schema(columns)), columns)
    except _READ_ERRORS:
        return None
    return frame if _usable(frame, block) else None


def _usable(frame: pl.DataFrame, block: Block | None = None) -> bool:
    """Whether no cell is empty, no id has surrounding blanks, and all ratings are finite."""
    if any(series.null_count() for series in frame):
        return False
    if "rating" in frame.columns and not np.isfinite(frame["rating"].to_numpy()).all():
        return False
    spaced = block is not None and b" " in block.text
    ids = (frame["user"], frame["item"])
    if any((series.str.len_bytes() == 0).any() for series in ids):
        return False
    return not spaced or all(series.equals(series.str.strip_chars()) for series in ids)


def _text_frame(table: Table, columns: Columns, block: Block) -> pl.DataFrame | None:
    """The block with its columns as texts; None if the fast reader fails."""
    texts: dict[str, pl.DataType] = dict.fromkeys(_schema(columns), pl.String())
    try:
        return _by_role(_parse(table, block.text, texts), columns)
    except _READ_ERRORS:
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
    wrong = _wrong_cells(frame, time_format)
    for role, (series, bad) in wrong.items():
        if bad.any():
            place = int(bad.arg_max() or 0)
            line = (cells or list(_cells(table, columns, block)))[place][0]
            found = frame[role][place]
            raise _cell_fault(table, columns, role, line, found)
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
                yield number, [None if row.get(n) is None else str(row[n]) for n in names]
        return
    places = [table.columns.index(name) for name in names]
    for number, fields in records(table, text, block.line):
        yield number, [fields[place] or None for place in places]


def _wrong_cells(
    frame: pl.DataFrame, time_format: TimeFormat
) -> dict[str, tuple[pl.Series, pl.Series]]:
    """Role -> (the converted column, bool: the cells that could not be converted)."""
    converted: dict[str, tuple[pl.Series, pl.Series]] = {}
    for role in ("user", "item"):
        converted[role] = (frame[role], (frame[role].fill_null("") == ""))
    if "rating" in frame.columns:
        rating = frame["rating"].cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
        converted["rating"] = (rating, ~rating.is_finite().fill_null(False))
    if "time" in frame.columns:
        time = exact_times(frame["time"].cast(pl.String).str.strip_chars(), time_format)
        converted["time"] = (time, time.is_null())
    return converted


def exact_times(texts: pl.Series, time_format: TimeFormat) -> pl.Series:
    """Int64: the times in units of 10^-decimals; null for a text without an exact value."""
    if time_format.text:
        return _dates(texts, time_format.text)
    parts = texts.str.extract_groups(r"^([+-]?\d+)(?:\.(\d*?)0*)?$").struct
    whole, decimals = parts.field("1"), parts.field("2").fill_null("")
    fits = decimals.str.len_bytes() <= time_format.decimals
    digits = (whole + decimals.str.pad_end(time_format.decimals, "0")).str.strip_prefix("+")
    number = digits.cast(pl.Int64, strict=False)
    number = pl.select(pl.when(fits).then(number)).to_series()
    for place in np.flatnonzero(number.is_null().to_numpy()):
        value = _exact(texts[int(place)], time_format.decimals)
        if value is None:
            break
        number = number.scatter(int(place), value)
    return number


def _exact(text: str | None, decimals: int) -> int | None:
    """The value of a text such as "1.5E9" in units of 10^-decimals; None if it is not whole."""
    try:
        value = decimal.Decimal(text or "").scaleb(decimals)
    except decimal.InvalidOperation:
        return None
    if not value.is_finite() or abs(value) > _LAST_TIME or value != value.to_integral_value():
        return None
    return int(value)


def _dates(texts: pl.Series, text_format: str) -> pl.Series:
    """Int64: microseconds since 1970; null for a text of another format."""
    with contextlib.suppress(*_READ_ERRORS):
        moments = texts.str.to_datetime(text_format, time_unit="us", strict=False)
        return moments.dt.replace_time_zone(None).dt.epoch("us")
    try:  # The format may have no time of day.
        days = texts.str.to_date(text_format, strict=False)
    except _READ_ERRORS as error:
        raise InputError(f"--time_format={text_format}: not a date format ({error})") from error
    return days.cast(pl.Datetime("us")).dt.epoch("us")


_RIGHT = {
    "user": "an id (the user of the interaction)",
    "item": "an id (the item of the interaction)",
    "rating": "a finite number; --rating=none ignores the ratings",
    "time": (
        "a whole number; for dates give a format such as --time_format=%Y-%m-%d, for fractions "
        "--time_decimals=N"
    ),
}


def _cell_fault(table: Table, columns: Columns, role: str, line: int, found: object) -> InputError:
    return fault(table.path, line, getattr(columns, role), found, _RIGHT[role])


def _parquet(table: Table, columns: Columns, time_format: TimeFormat) -> Iterator[pl.DataFrame]:
    """One frame for each batch of a parquet file, with a column for each role."""
    lazy = pl.scan_parquet(table.path).select([name for name in columns if name])
    row = 1
    try:
        batches = lazy.collect_batches(chunk_size=_PARQUET_ROWS, maintain_order=True)
        for batch in batches:
            frame = _by_role(batch, columns)
            yield _converted(table, columns, time_format, frame, row)
            row += frame.height
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{table.path}: cannot be read as parquet ({error})") from error


def _converted(
    table: Table, columns: Columns, time_format: TimeFormat, frame: pl.DataFrame, row: int
) -> pl.DataFrame:
    for role in ("user", "item"):
        kind = frame[role].dtype
        if not (kind.is_integer() or kind in (pl.String, pl.Categorical)):
            raise InputError(
                f"{table.path}, column {getattr(columns, role)}: found the type {kind}, expected "
                f"ids that are texts or whole numbers; name another column with --{role}"
            )
    if "time" in frame.columns and frame["time"].dtype.is_temporal():
        frame = frame.with_columns(_epoch(frame["time"]))
    wrong = _wrong_cells(frame.with_columns(pl.col("user", "item").cast(pl.String)), time_format)
    for role, (series, bad) in wrong.items():
        if bad.any():
            place = int(bad.arg_max() or 0)
            raise _cell_fault(table, columns, role, row + place, frame[role][place])
        frame = frame.with_columns(series.alias(role))
    return frame


def _epoch(series: pl.Series) -> pl.Series:
    """Int64 in the unit of the series, so no value is rounded."""
    if isinstance(series.dtype, pl.Datetime):
        return series.dt.epoch(series.dtype.time_unit)
    return series.cast(pl.Datetime("us")).dt.epoch("us")
