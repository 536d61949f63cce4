"""Reads tables from untrusted text files; every loader uses it.

Every fault is an `InputError` of one line that names the file, the row, the column, the value found
and the value expected.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedvlr_jax.data.faults import fault, shown
from fedvlr_jax.data.text_files import read_text
from fedvlr_jax.errors import InputError


class Table(NamedTuple):
    """A table read from a file; entry i of the index of `frame` is line i + 2 of the file.

    Attributes:
      path: the file, for messages.
      frame: the columns with the types that pandas infers. Columns of names are text.
      content: the UTF-8 text of the file.
      separator: the character between fields.
    """

    path: Path
    frame: pd.DataFrame
    content: bytes
    separator: str

    @property
    def columns(self) -> list[str]:
        return list(self.frame.columns)

    def integers(self, column: str, *, low: int, high: int, right: str) -> np.ndarray:
        """One column as int64 [n], every value in [low, high].

        No value is rounded. pandas reads a column of integers as floats if a cell is blank or has
        a decimal point; such a column is read again as text. "7.0" is accepted. An exponent is
        refused, because the number may be rounded.

        Args:
          right: the description of accepted values, for the message.

        Raises:
          InputError: a cell has another value.
        """
        raw = self.frame[column]
        if raw.dtype.kind in "iu":
            values = raw.to_numpy()
            good = (values >= low) & (values <= high)
        else:
            raw = self._text(column)
            codes, uniques = pd.factorize(raw)
            whole = [_whole_number(text) for text in uniques]
            fits = [number is not None and low <= number <= high for number in whole]
            known = [number if fit else 0 for number, fit in zip(whole, fits, strict=True)]
            # The code of a missing cell is -1: it takes the last entry.
            values = np.asarray([*known, 0], np.int64)[codes]
            good = np.asarray([*fits, False])[codes]
        if not good.all():
            row = int(np.argmin(good))
            raise fault(self.path, row + 2, column, raw.iloc[row], right)
        return values.astype(np.int64)

    def names(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """One column of ids, as codes and distinct names.

        A name is any text or a whole number; "7" and "7.0" are one name. Other numbers, such as
        -1, 1.5 or nan, are refused, because they are likely mistakes.

        Returns:
          codes: int64 [n], the index of each row's name in `names`.
          names: str [m], distinct. If all are whole numbers without leading zeros, they are sorted
            as numbers, otherwise as text.

        Raises:
          InputError: a cell is empty or has a number that is not an id.
        """
        raw = self.frame[column]
        codes, uniques = pd.factorize(raw)
        names = [_name(text) for text in uniques]
        bad = np.asarray([*(name is None for name in names), True])[codes]
        if bad.any():
            row = int(np.argmax(bad))
            right = "an id: a whole number from 0 on, written out, or a name"
            raise fault(self.path, row + 2, column, raw.iloc[row], right)
        ordered = _in_order({name for name in names if name is not None})
        place = {name: number for number, name in enumerate(ordered)}
        numbers = np.asarray([place[name] for name in names if name is not None], np.int64)
        return numbers[codes], np.asarray(ordered, np.str_)

    def _text(self, column: str) -> pd.Series:
        """The cells of one column as text of the file; NaN for a missing cell."""
        raw = self.frame[column]
        if raw.dtype.kind not in "fb":
            return raw
        frame = _parse(self.content, self.columns, self.separator, {column: str}, column)
        return frame[column].iloc[: len(raw)]


_WHOLE = re.compile(r"\s*([+-]?\d{1,40})(?:\.0*)?\s*", re.ASCII)
_PLAIN = re.compile(r"0|[1-9]\d*", re.ASCII)


def _whole_number(text: object) -> int | None:
    """The integer in a cell; None for other text."""
    match = _WHOLE.fullmatch(str(text))
    return int(match[1]) if match else None


def _name(text: object) -> str | None:
    """The id in a cell; None for an empty cell or a number that is not an id."""
    name = str(text).strip()
    match = _WHOLE.fullmatch(name)
    if match and name[0] not in "+-":
        return match[1]
    try:
        float(name)
    except ValueError:
        return name or None
    return None


def _in_order(names: set[str]) -> list[str]:
    if all(_PLAIN.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (len(name), name))
    return sorted(names)


def read_table(path: Path, *, names: Collection[str] = (), text_only: bool = False) -> Table:
    """Reads a table of comma-, tab-, semicolon- or bar-separated text.

    Args:
      names: the columns of ids, for `Table.names`.
      text_only: read all columns as text, and an empty cell as "".

    Raises:
      InputError: the file is not such a table.
    """
    content = read_text(path)
    first_line = content.partition(b"\n")[0].decode("utf-8").rstrip("\r")
    separator = max("\t,;|", key=first_line.count)
    if "::" in first_line:
        raise InputError(
            f"{path}, row 1: found fields separated by '::', expected commas or tabs; "
            "fedvlr prepare reads this form"
        )
    header = [column.strip().strip('"') for column in first_line.split(separator)]
    for column in header:
        if header.count(column) > 1:
            raise InputError(f"{path}, row 1: column {shown(column)} occurs twice, expected once")
    types: Any = str if text_only else dict.fromkeys(names, str)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = _parse(content, header, separator, types)
    except pd.errors.ParserWarning as error:
        raise InputError(
            f"{path}, row 2: more fields than the {len(header)} columns of the header"
        ) from error
    except (pd.errors.ParserError, ValueError, OverflowError) as error:
        place = re.search(r"fields in line (\d+), saw (\d+)", str(error))
        if place:
            raise InputError(
                f"{path}, row {place[1]}: found {place[2]} fields, expected {len(header)}"
            ) from error
        raise InputError(
            f"{path}: cannot be read as a table of the columns {', '.join(header)[:200]!r} "
            "(an unclosed quote?)"
        ) from error
    return Table(path, _without_trailing_blanks(path, frame), content, separator)


def _parse(
    content: bytes, header: list[str], separator: str, types: Any, only: str | None = None
) -> pd.DataFrame:
    """The rows below the header, with all columns or with the column `only`."""
    return pd.read_csv(
        io.BytesIO(content),
        sep=separator,
        names=header,
        header=0,
        index_col=False,
        usecols=None if only is None else [only],
        dtype=types,
        # Keep blank lines; otherwise the row numbers below them would be wrong.
        skip_blank_lines=False,
        keep_default_na=types is not str,
        low_memory=False,
    )


def _without_trailing_blanks(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    blank = np.logical_and.reduce(
        # A data frame has no `values()`.
        [(x.isna() | (x == "")).to_numpy() for _, x in frame.items()]  # noqa: PERF102
    )
    rows = len(frame) if not blank.any() else int(np.flatnonzero(~blank).max(initial=-1)) + 1
    if rows == 0:
        raise InputError(f"{path}: no rows below the header; expected at least one")
    return frame.iloc[:rows]
