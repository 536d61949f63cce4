"""Checks and converts the cells of a table: ids, ratings, times."""

from __future__ import annotations

import contextlib
import decimal
import re
from typing import NamedTuple

import numpy as np
import polars as pl

from fedvlr_jax.data.faults import fault
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.columns import Columns
from fedvlr_jax.prepare.dates import iso_format, likely_formats
from fedvlr_jax.prepare.tables import Table

_LAST_TIME = 2**62
# Exceptions of the data frame library for input that it cannot read.
READ_ERRORS = (pl.exceptions.PolarsError, ValueError)


class TimeFormat(NamedTuple):
    """The format of times.

    Attributes:
      text: a date format such as "%Y-%m-%d %H:%M:%S", in the notation of polars; the result is in
        microseconds since 1970. "" for numbers.
      decimals: the number of decimal places of numbers; the result is in units of 10^-decimals.
    """

    text: str = ""
    decimals: int = 0


def by_role(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """The columns that have a role, named after it."""
    named = [(role, name) for role, name in columns._asdict().items() if name]
    return frame.select(pl.col(name).alias(role) for role, name in named)


def wrong_cells(
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
    """The value of a text such as "1.500000000E9" in units of 10^-decimals; None if inexact.

    "1.5E9" is inexact: its last digit is that of 10^8, and smaller digits may have been lost.
    """
    try:
        written = decimal.Decimal(text or "")
        value = written.scaleb(decimals)
    except decimal.InvalidOperation:
        return None
    if not value.is_finite() or int(written.as_tuple().exponent) > 0:
        return None
    if abs(value) > _LAST_TIME or value != value.to_integral_value():
        return None
    return int(value)


def _dates(texts: pl.Series, text_format: str) -> pl.Series:
    """Int64: microseconds since 1970; null for a text of another format."""
    with contextlib.suppress(*READ_ERRORS):
        moments = texts.str.to_datetime(text_format, time_unit="us", strict=False)
        return moments.dt.replace_time_zone(None).dt.epoch("us")
    try:  # The format may have no time of day.
        days = texts.str.to_date(text_format, strict=False)
    except READ_ERRORS as error:
        raise InputError(f"--time_format={text_format}: not a date format ({error})") from error
    return days.cast(pl.Datetime("us")).dt.epoch("us")


_RIGHT = {
    "user": "an id (the user of the interaction)",
    "item": "an id (the item of the interaction)",
    "rating": "a finite number such as 4.5; --rating=none ignores the ratings",
}


def cell_fault(
    table: Table,
    columns: Columns,
    time_format: TimeFormat,
    role: str,
    line: int,
    found: object,
) -> InputError:
    """The error of a cell in the column of `role`; `line` is its line in the file."""
    right = _right_time(str(found), time_format) if role == "time" else _RIGHT[role]
    return fault(table.path, line, getattr(columns, role), found, right)


def _right_time(found: str, time_format: TimeFormat) -> str:
    """The expected value and the option that fits the value found."""
    if time_format.text:
        return f"a date of the format {time_format.text} (--time_format)"
    if re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", found.strip()):
        return (
            "a whole number with all its digits, which an exponent may leave out; write the times "
            "out, or --time=lines takes the order of the lines"
        )
    decimals = re.fullmatch(r"[+-]?\d*\.(\d+)", found.strip())
    if decimals:
        return f"a whole number; --time_decimals={min(9, len(decimals[1]))} keeps the fraction"
    form = iso_format(found.strip())
    likely = [form] if form else likely_formats(found.strip())
    if likely:
        options = " or ".join(f"--time_format='{form}'" for form in likely)
        return f"a whole number; for this date give {options}"
    return (
        "a whole number; for dates give their format, such as --time_format=%Y-%m-%d; --time=lines "
        "takes the order of the lines, --time=random draws an order"
    )
