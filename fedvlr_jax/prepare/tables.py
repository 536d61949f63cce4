"""Finds the format of a raw table: kind, separator, header, columns."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from fedvlr_jax.data.faults import shown
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.opening import is_parquet, plain_name
from fedvlr_jax.prepare.sources import Block, blocks, read_start, read_text

_SEPARATORS = ("::", "\t", ",", ";", "|")
_NAMED_SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_TYPED = re.compile(r"(?P<name>[^:]+):(token|token_seq|float|float_seq)")
_FIRST_LINE_BYTES = 1 << 20
_JSON_LINES = (".jsonl", ".json", ".ndjson")


class Table(NamedTuple):
    """The format of a file of rows.

    Attributes:
      path: the file, compressed or not.
      kind: "delimited", "jsonl" or "parquet".
      columns: the names in order; the position from 1 for a column without name. For JSON lines,
        the fields of the lines in the first megabyte, because a line may leave fields out.
      separator: the text between the fields of a line; "" for kinds without separator.
      quoted: True if double quotes may enclose a field.
      header: True if the first line has the names of the columns.
      typed: True if the header also has types, as in RecBole's atomic files.
    """

    path: Path
    kind: str
    columns: tuple[str, ...]
    separator: str = ""
    quoted: bool = False
    header: bool = False
    typed: bool = False

    def blocks(self) -> Iterator[Block]:
        """The blocks of a text file; see `sources.blocks` for the errors."""
        return blocks(self.path, quoted=self.separator if self.quoted else "")


def table_of(
    path: Path, *, known: Collection[str], separator: str = "", header: str = "auto"
) -> Table:
    """Finds the format of `path` from its name and its first line.

    Args:
      known: names of columns, in the form of `plain_column`.
      separator: the separator, or "tab", "comma", "semicolon", "pipe" or "space"; "" to find it.
      header: "yes", "no", or "auto": "yes" if the first line has a known name and no number.

    Raises:
      InputError: the file does not exist or is empty, or its header repeats a name.
    """
    if is_parquet(path):
        return Table(path, "parquet", _parquet_columns(path))
    name = plain_name(path)
    first = first_line(path)
    if name.endswith(_JSON_LINES) or first.startswith(("{", "[")):
        return Table(path, "jsonl", _json_fields(path, first))
    separator = _NAMED_SEPARATORS.get(separator, separator) or _find_separator(first)
    fields = _split(first, separator, quoted=separator != "::")
    if all(_TYPED.fullmatch(field) for field in fields) and header != "no":
        fields = [field.rpartition(":")[0] for field in fields]
        return _checked(Table(path, "delimited", tuple(fields), separator, False, True, True))
    quoted = separator != "::" and not name.endswith((".data", ".item"))
    named = any(plain_column(field) in known for field in fields)
    if header == "no" or (header == "auto" and (not named or any(map(_is_number, fields)))):
        columns = tuple(str(place + 1) for place in range(len(fields)))
        return Table(path, "delimited", columns, separator, quoted)
    named_columns = tuple(field or str(place) for place, field in enumerate(fields, start=1))
    return _checked(Table(path, "delimited", named_columns, separator, quoted, True))


def plain_column(name: str) -> str:
    """The name in lower case with only letters and digits: UserId and user_id become equal."""
    return "".join(c for c in name.lower() if c.isalnum())


def _checked(table: Table) -> Table:
    for column in table.columns:
        if table.columns.count(column) > 1:
            raise InputError(
                f"{table.path}, row 1: column {shown(column)} occurs twice; name each column once"
            )
    return table


def first_line(path: Path) -> str:
    """The first line that is not blank.

    Raises:
      InputError: the file does not exist, is empty or is not text, or has lines without line feed.
    """
    start = read_start(path, _FIRST_LINE_BYTES).removeprefix(b"\xef\xbb\xbf")
    for line in start.split(b"\n"):
        if b"\r" in line.strip():
            raise InputError(
                f"{path}: a line ends with a carriage return only; save the file with line feeds"
            )
        if line.strip():
            return line.removesuffix(b"\r").decode("utf-8", "replace")
    raise InputError(f"{path}: the file is empty; expected rows of interactions or items")


def _find_separator(line: str) -> str:
    return next((separator for separator in _SEPARATORS if separator in line), ",")


def _split(line: str, separator: str, *, quoted: bool) -> list[str]:
    if not quoted or len(separator) > 1:
        return [field.strip() for field in line.split(separator)]
    return [field.strip() for field in next(csv.reader([line], delimiter=separator))]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _json_fields(path: Path, line: str) -> tuple[str, ...]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise _no_object(path, line) from error
    if not isinstance(fields, dict):
        raise _no_object(path, line)
    return tuple(dict.fromkeys([*fields, *_later_fields(path)]))


def _later_fields(path: Path) -> Iterator[str]:
    """The fields of the lines at the start of the file; a reader of the rows finds faults."""
    for line in read_start(path, _FIRST_LINE_BYTES).split(b"\n"):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            yield from row if isinstance(row, dict) else ()


def _no_object(path: Path, line: str) -> InputError:
    hint = ""
    if line.startswith("{'"):
        hint = "; this is a Python literal: write each line with json.dumps(ast.literal_eval(line))"
    elif line.startswith("["):
        hint = "; this is a list: write each of its objects on a line, e.g. with jq -c '.[]'"
    return InputError(f"{path}, row 1: found {shown(line)}, expected one JSON object a line{hint}")


def _parquet_columns(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return tuple(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: cannot be read as parquet ({error})") from error


def small_rows(
    table: Table, *, fallback: str, notes: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, {column: value}) of every row of a table that fits in memory, such as the items.

    Values of delimited text are texts. Values of JSON lines and parquet keep their types, but
    numbers of JSON lines are texts.

    Args:
      fallback, notes: see `read_text`.

    Raises:
      InputError: a row has a wrong number of fields or is not JSON.
    """
    if table.kind == "parquet":
        try:
            frame = pl.read_parquet(table.path)
        except pl.exceptions.PolarsError as error:
            raise InputError(f"{table.path}: cannot be read as parquet ({error})") from error
        yield from enumerate(frame.iter_rows(named=True), start=1)
        return
    text = read_text(table.path, fallback=fallback, notes=notes)
    if table.kind == "jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, json_object(table.path, number, line)
        return
    numbered = records(table, text, 1)
    if table.header:
        next(numbered, None)
    for number, fields in numbered:
        yield number, dict(zip(table.columns, fields, strict=True))


def json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    """The object of one line of JSON; numbers stay texts.

    Raises:
      InputError: the line is no object.
    """
    try:
        # Keep numbers as texts: a float would round an id or a time.
        row = json.loads(line, parse_float=str, parse_int=str)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise InputError(
            f"{path}, row {number}: found {shown(line)}, expected one JSON object a line"
        )
    return row


def records(table: Table, text: str, line: int) -> Iterator[tuple[int, list[str]]]:
    """(line, fields) of every record of delimited text whose first line has number `line`.

    Blank lines are skipped.

    Raises:
      InputError: the number of fields of a record differs from the number of columns.
    """
    lines = text.split("\n")
    if not table.quoted or len(table.separator) > 1:
        split: Iterator[tuple[int, list[str]]] = (
            (line + i, row.removesuffix("\r").split(table.separator))
            for i, row in enumerate(lines)
            if row.strip()
        )
    else:
        reader = csv.reader((row + "\n" for row in lines), delimiter=table.separator)
        split = _numbered(table.path, reader, line)
    for number, fields in split:
        if len(fields) != len(table.columns):
            raise InputError(
                f"{table.path}, row {number}: found {len(fields)} fields, expected "
                f"{len(table.columns)} ({', '.join(table.columns)[:100]})"
            )
        yield number, fields


def _numbered(path: Path, reader: Any, line: int) -> Iterator[tuple[int, list[str]]]:
    before = 0
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{path}, row {line + before}: {error} (an unclosed quote?)"
            ) from error
        if any(field.strip() for field in fields):
            yield line + before, fields
        before = reader.line_num
