"""Reads tables and arrays that are never trusted.

A size is checked before anything is allocated, nothing is unpickled, and every fault is an
`InputError` of one line that names the file, the row, the column, what was found and what
would be right. Every loader reads its files through here.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from fedvlr_jax.errors import InputError


def shown(value: object) -> str:
    """A found value, quoted on one line and shortened."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "an empty or missing value"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def fault(path: Path, row: int, column: str, found: object, right: str) -> InputError:
    """The error of one cell. A column's name is a found value too, and shown as one if odd."""
    name = column if column.isprintable() and len(column) <= 60 else shown(column)
    return InputError(f"{path}, row {row}, column {name}: found {shown(found)}, expected {right}")


def _read_text(path: Path) -> bytes:
    """The bytes of a UTF-8 text file without NUL bytes."""
    if not path.is_file():
        raise InputError(f"{path}: not a file; expected a comma- or tab-separated text file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not content.strip():
        raise InputError(f"{path}: the file is empty; expected a header line and data rows")
    nul = content.find(b"\0")
    if nul >= 0:
        row = content.count(b"\n", 0, nul) + 1
        raise InputError(f"{path}, row {row}: found a NUL byte; expected UTF-8 text")
    if not content.isascii():
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            row = content.count(b"\n", 0, error.start) + 1
            found = content[error.start]
            raise InputError(
                f"{path}, row {row}: found byte 0x{found:02x}; expected UTF-8 text"
            ) from error
    return content.removeprefix(b"\xef\xbb\xbf")


def read_table(path: Path, *, text_only: bool = False) -> pd.DataFrame:
    """Reads a table; entry i of the index is line i + 2 of the file."""
    content = _read_text(path)
    first_line = content.partition(b"\n")[0].decode("utf-8").rstrip("\r")
    separator = "\t" if "\t" in first_line else ","
    header = [column.strip().strip('"') for column in first_line.split(separator)]
    for column in header:
        if header.count(column) > 1:
            raise InputError(f"{path}, row 1: column {shown(column)} occurs twice, expected once")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.BytesIO(content),
                sep=separator,
                names=header,
                header=0,
                index_col=False,
                dtype=str if text_only else None,
                # Blank lines must count, or row numbers would be wrong below them.
                skip_blank_lines=False,
                keep_default_na=not text_only,
                low_memory=False,
            )
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
    return _without_trailing_blanks(path, frame)


def _without_trailing_blanks(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    blank = (frame.isna() | (frame == "")).all(axis=1).to_numpy()
    rows = len(frame) if not blank.any() else int(np.flatnonzero(~blank).max(initial=-1)) + 1
    if rows == 0:
        raise InputError(f"{path}: no rows below the header; expected at least one")
    return frame.iloc[:rows]


def whole_numbers(
    path: Path, frame: pd.DataFrame, column: str, *, low: int, high: int, right: str
) -> np.ndarray:
    """One column as int64 [n], every value in [low, high]."""
    raw = frame[column]
    number = pd.to_numeric(raw, errors="coerce").to_numpy()
    if number.dtype.kind not in "iuf":  # True and False are no numbers.
        number = np.full(len(raw), np.nan)
    good = (number >= low) & (number <= high)
    if number.dtype.kind == "f":
        good &= np.floor(number) == number
    if not good.all():
        row = int(np.argmin(good))
        raise fault(path, row + 2, column, raw.iloc[row], right)
    return number.astype(np.int64)


def read_feature(path: Path) -> np.ndarray:
    """float32 [rows, width], finite."""
    if not path.is_file():
        raise InputError(f"{path}: not a file; expected a .npy file")
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _read_npy_header(path, file)
            _check_npy_header(path, shape, dtype, stored=path.stat().st_size - file.tell())
            raw = np.fromfile(file, dtype, count=math.prod(shape))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    raw = raw.reshape(shape, order="F" if fortran else "C")
    with np.errstate(over="ignore", invalid="ignore"):
        feature = np.ascontiguousarray(raw, np.float32)
    finite = np.isfinite(feature)
    if not finite.all():
        row, column = (int(index) for index in np.argwhere(~finite)[0])
        raise fault(path, row, str(column), str(raw[row, column]), "a finite float32 number")
    return feature


def _read_npy_header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        return readers[np.lib.format.read_magic(file)](file)
    # A forged header can fail in many ways inside the reader; all mean the same.
    except Exception as error:
        raise InputError(
            f"{path}: no readable .npy header; expected a file written by numpy.save"
        ) from error


def _check_npy_header(path: Path, shape: tuple[int, ...], dtype: np.dtype, *, stored: int) -> None:
    """Believes the header only where the size of the file agrees."""
    if dtype.hasobject:
        raise InputError(f"{path}: found pickled objects, expected float16, float32 or float64")
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise InputError(f"{path}: found dtype {dtype}, expected float16, float32 or float64")
    # True is an int to Python, and to the reader of the header, but no number of rows.
    if len(shape) != 2 or bool in map(type, shape) or min(shape) < 1:
        raise InputError(f"{path}: found shape {shown(shape)}, expected [num_items, width]")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != stored:
        raise InputError(
            f"{path}: the header promises {claimed} bytes ({shown(shape)}, {dtype}), but the "
            f"file has {stored}; it is truncated or damaged"
        )
