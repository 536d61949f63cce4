"""Reads tables and arrays that are never trusted.

A size is checked before anything is allocated, nothing is unpickled, and every fault is an
`InputError` of one line that names the file, the row, the column, what was found and what
would be right. Every loader reads its files through here.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import re
import warnings
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

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


# First bytes -> how a compressed file is read.
_DECOMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
}
# First bytes -> what a file is that is not read here.
_OTHER_FORMATS = {
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; decompress it, or use fedvlr prepare",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"PAR1": "a Parquet file; fedvlr prepare reads it",
    b"ARROW1": "an Arrow file; save it as CSV",
    b"\x89HDF": "an HDF5 file; save it as CSV",
    b"SQLite format 3": "an SQLite database; save the table as CSV",
    b"\x93NUMPY": "a NumPy array; save it as CSV",
    b"\x80": "a pickle; save it as CSV",
    b"{": "JSON lines; fedvlr prepare reads them",
    b"[": "a JSON list; save it as CSV or as JSON lines",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def check_text(path: Path, text: bytes, first_row: int = 1) -> None:
    """Raises InputError, with the row, for a NUL byte or one that is not UTF-8 text.

    `first_row`: the row that `text` begins with.
    """
    nul = text.find(b"\0")
    if nul >= 0:
        row = first_row + text.count(b"\n", 0, nul)
        raise InputError(f"{path}, row {row}: found a NUL byte; expected UTF-8 text")
    if text.isascii():
        return
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        row = first_row + text.count(b"\n", 0, error.start)
        found = text[error.start]
        raise InputError(
            f"{path}, row {row}: found byte 0x{found:02x}; expected UTF-8 text"
        ) from error


def _read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if it begins as gzip, bzip2 or xz does."""
    if not path.is_file():
        raise InputError(f"{path}: not a file; expected a comma- or tab-separated text file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    for magic, decompress in _DECOMPRESSORS.items():
        if content.startswith(magic):
            try:
                return decompress(content)
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
                raise InputError(f"{path}: the compressed file is damaged ({error})") from error
    return content


def _read_text(path: Path) -> bytes:
    """The bytes of a text file as UTF-8, without a byte-order mark and without NUL bytes."""
    content = _read_bytes(path)
    for magic, what in _OTHER_FORMATS.items():
        if content.startswith(magic):
            raise InputError(f"{path}: found {what}; expected comma- or tab-separated text")
    if content.startswith(_UTF16):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: found broken UTF-16 text; expected UTF-8 text") from error
    if not content.strip():
        raise InputError(f"{path}: the file is empty; expected a header line and data rows")
    check_text(path, content)
    # A blank last line would make pandas read a column of integers as floats.
    return content.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")


class Table(NamedTuple):
    """A table as it was read; entry i of the index of `frame` is line i + 2 of the file.

    Attributes:
      path: the file, for messages.
      frame: the columns as pandas infers them. Columns of names hold text.
      content: the UTF-8 text that `frame` was read from.
      separator: what parts the fields.
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

        No value is ever rounded: pandas reads a column of integers as floats where one cell is
        blank or has a decimal point, so such a column is read again, as text. A decimal point
        with zeros behind it is accepted, an exponent is not: it may stand for a rounded number.

        Raises:
          InputError: a cell holds another value; `right` says what would be accepted.
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
        """One column of ids, numbered anew.

        Any text is a name, and so is a whole number ("7" and "7.0" are the same one). What reads
        as another number, such as -1, 1.5 or nan, is refused: it is more likely a mistake.

        Returns:
          codes: int64 [n], the number of each row's name.
          names: str [m], each once. They are in the order of the numbers where all of them are
            whole numbers without leading zeros, and in the order of text elsewhere.

        Raises:
          InputError: a cell is empty or holds a number that is no id.
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
        """The cells of one column as they stand in the file; NaN where one is missing."""
        raw = self.frame[column]
        if raw.dtype.kind not in "fb":
            return raw
        frame = _parse(self.content, self.columns, self.separator, {column: str}, column)
        return frame[column].iloc[: len(raw)]


_WHOLE = re.compile(r"\s*([+-]?\d{1,40})(?:\.0*)?\s*", re.ASCII)
_PLAIN = re.compile(r"0|[1-9]\d*", re.ASCII)


def _whole_number(text: object) -> int | None:
    """The integer that a cell writes out; None if it writes another thing."""
    match = _WHOLE.fullmatch(str(text))
    return int(match[1]) if match else None


def _name(text: object) -> str | None:
    """The id that a cell holds; None if it holds a number that is no id."""
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
      names: columns of ids, which `Table.names` is to read.
      text_only: all columns are text, and an empty cell is an empty text.

    Raises:
      InputError: the file is no such table.
    """
    content = _read_text(path)
    first_line = content.partition(b"\n")[0].decode("utf-8").rstrip("\r")
    separator = max("\t,;|", key=first_line.count)
    if "::" in first_line:
        raise InputError(
            f"{path}, row 1: found fields parted by '::', expected commas or tabs; "
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
    """The rows below the header; of all columns, or of one."""
    return pd.read_csv(
        io.BytesIO(content),
        sep=separator,
        names=header,
        header=0,
        index_col=False,
        usecols=None if only is None else [only],
        dtype=types,
        # Blank lines must count, or row numbers would be wrong below them.
        skip_blank_lines=False,
        keep_default_na=types is not str,
        low_memory=False,
    )


def _without_trailing_blanks(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    blank = np.logical_and.reduce(
        [(column.isna() | (column == "")).to_numpy() for _, column in frame.items()]
    )
    rows = len(frame) if not blank.any() else int(np.flatnonzero(~blank).max(initial=-1)) + 1
    if rows == 0:
        raise InputError(f"{path}: no rows below the header; expected at least one")
    return frame.iloc[:rows]


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
