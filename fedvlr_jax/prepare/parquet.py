"""Reads the interactions of a parquet file in a stream of batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from fedvlr_jax.data.faults import fault
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.cells import TimeFormat, by_role, cell_fault, wrong_cells
from fedvlr_jax.prepare.columns import Columns
from fedvlr_jax.prepare.tables import Table

_BATCH_ROWS = 1 << 20


def parquet_frames(
    table: Table, columns: Columns, time_format: TimeFormat
) -> Iterator[pl.DataFrame]:
    """One frame for each batch of a parquet file, with a column for each role."""
    lazy = pl.scan_parquet(table.path).select([name for name in columns if name])
    row = 1
    try:
        batches = lazy.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True)
        for batch in batches:
            frame = by_role(batch, columns)
            yield _converted(table, columns, time_format, frame, row)
            row += frame.height
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{table.path}: cannot be read as parquet ({error})") from error


def _converted(
    table: Table, columns: Columns, time_format: TimeFormat, frame: pl.DataFrame, row: int
) -> pl.DataFrame:
    for role in ("user", "item"):
        frame = frame.with_columns(_ids(table, columns, role, frame[role], row))
    if "time" in frame.columns and frame["time"].dtype.is_temporal():
        frame = frame.with_columns(_epoch(frame["time"]))
    if "time" in frame.columns and frame["time"].dtype.is_float():
        _check_digits(table, columns.time, frame["time"], row)
    wrong = wrong_cells(frame, time_format)
    for role, (series, bad) in wrong.items():
        if bad.any():
            place = int(bad.arg_max() or 0)
            found = frame[role][place]
            raise cell_fault(table, columns, time_format, role, row + place, found)
        frame = frame.with_columns(series.alias(role))
    return frame


def _ids(table: Table, columns: Columns, role: str, ids: pl.Series, row: int) -> pl.Series:
    """The ids as texts. Whole floats, as pandas writes columns with gaps, become whole numbers."""
    kind = ids.dtype
    if kind.is_float():
        whole = ids.cast(pl.Int64, strict=False)
        exact = ((whole == ids) & (ids.abs() < _rounded_from(ids))).fill_null(False)
        wrong = ids.is_not_null() & ~exact
        if wrong.any():
            place = int(wrong.arg_max() or 0)
            right = "a text or a whole number as id"
            raise fault(table.path, row + place, getattr(columns, role), ids[place], right)
        ids = whole
    elif not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Binary)):
        raise InputError(
            f"{table.path}, column {getattr(columns, role)}: found the type {kind}, expected "
            f"ids that are texts or whole numbers; name another column with --{role}"
        )
    return ids.cast(pl.String, strict=False).str.strip_chars()


def _check_digits(table: Table, column: str, times: pl.Series, row: int) -> None:
    """Refuses times that a float may have rounded."""
    limit = _rounded_from(times)
    wrong = ((times.abs() >= limit) & times.is_finite()).fill_null(False)
    if wrong.any():
        place = int(wrong.arg_max() or 0)
        right = f"a number below {limit}, because {times.dtype} rounds others; store whole numbers"
        raise fault(table.path, row + place, column, times[place], right)


def _rounded_from(floats: pl.Series) -> int:
    """Floats of this dtype may be rounded whole numbers from this number on."""
    return int(2 ** (np.finfo(floats.head(0).to_numpy().dtype).nmant + 1))


def _epoch(series: pl.Series) -> pl.Series:
    """Int64 in the unit of the series, so no value is rounded."""
    if isinstance(series.dtype, pl.Datetime):
        return series.dt.epoch(series.dtype.time_unit)
    return series.cast(pl.Datetime("us")).dt.epoch("us")
