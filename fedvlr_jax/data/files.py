"""Reads tables and arrays from untrusted files; every loader uses it.

The module checks a size before it allocates memory, and unpickles nothing. Every fault is an
`InputError` of one line that names the file, the row, the column, the value found and the value
expected.
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
    """A value found in the input, quoted on one line and shortened."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "an empty or missing value"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def fault(path: Path, row: int, column: str, found: object, right: str) -> InputError:
    """The error for one cell. A column name that is long or not printable is quoted by `shown`."""
    name = column if column.isprintable() and len(column) <= 60 else shown(column)
    return InputError(f"{path}, row {row}, column {name}: found {shown(found)}, expected {right}")


# First bytes of a compressed file -> function that decompresses it.
_DECOMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ\x00": lzma.decompress,
}
# First bytes of a file that is not text -> description of its format.
_BINARY_FORMATS = {
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; decompress it, or use fedvlr prepare",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save it as CSV",
    b"PAR1": "a Parquet file; fedvlr prepare reads it",
    b"ARROW1": "an Arrow file; save it as CSV",
    b"\x89HDF": "an HDF5 file; save it as CSV",
    b"SQLite format 3": "an SQLite database; save the table as CSV",
    b"\x93NUMPY": "a NumPy array; save it as CSV",
    b"\x80": "a pickle; save it as CSV",
}
# The place of the magic bytes of a tar archive, and these bytes.
_TAR = (257, b"ustar")
_JSON_FORMATS = {
    b"{": "JSON lines; fedvlr prepare reads them",
    b"[": "a JSON list; save it as CSV or as JSON lines",
}
UTF16 = (b"\xff\xfe", b"\xfe\xff")


def binary_format(start: bytes) -> str:
    """The format of a file that is not text, and the remedy; "" for an unknown format.

    Args:
      start: the first bytes of the file, at least 512 if it has so many.
    """
    if start.startswith(_TAR[1], _TAR[0]):
        return "a tar archive; unpack it and give the folder"
    found = (form for magic, form in _BINARY_FORMATS.items() if start.startswith(magic))
    return next(found, "")


def check_text(path: Path, text: bytes, first_row: int = 1) -> None:
    """Checks that `text` is UTF-8 without NUL bytes.

    Args:
      first_row: the row number of the first line of `text`.

    Raises:
      InputError: the message names the row of the wrong byte.
    """
    nul = text.find(b"\0")
    if nul >= 0:
        row = first_row + text.count(b"\n", 0, nul)
        raise InputError(f"{path}, row {row}: found a NUL byte; save the file as UTF-8 text")
    if text.isascii():
        return
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        row = first_row + text.count(b"\n", 0, error.start)
        found = text[error.start]
        raise InputError(
            f"{path}, row {row}: found byte 0x{found:02x}; save the file as UTF-8 text"
        ) from error


def _read_bytes(path: Path) -> bytes:
    """The content of a file; decompressed if the first bytes are those of gzip, bzip2 or xz."""
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
    json = (form for magic, form in _JSON_FORMATS.items() if content.startswith(magic))
    other = binary_format(content) or next(json, "")
    if other:
        raise InputError(f"{path}: found {other}; expected comma- or tab-separated text")
    if content.startswith(UTF16):
        try:
            content = content.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: found broken UTF-16 text; expected UTF-8 text") from error
    if not content.strip():
        raise InputError(f"{path}: the file is empty; expected a header line and data rows")
    check_text(path, content)
    # With a blank last line, pandas would read a column of integers as floats.
    return content.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")


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
    content = _read_text(path)
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


def read_feature(path: Path) -> np.ndarray:
    """Reads a .npy file as float32 [rows, width].

    Raises:
      InputError: the file is not a float array of two dimensions, or has a number outside
        FEATURE_RANGE.
    """
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
    usable = usable_features(feature)
    if not usable.all():
        row, column = (int(index) for index in np.argwhere(~usable)[0])
        raise fault(path, row, str(column), str(raw[row, column]), FEATURE_RANGE)
    return feature


# Squares of larger features, summed over a row, exceed float32.
LARGEST_FEATURE = 1e15
FEATURE_RANGE = f"a finite number from -{LARGEST_FEATURE:g} to {LARGEST_FEATURE:g}"


def usable_features(feature: np.ndarray) -> np.ndarray:
    """bool, in the shape of `feature`: the numbers in FEATURE_RANGE."""
    return (feature >= -LARGEST_FEATURE) & (feature <= LARGEST_FEATURE)


def _read_npy_header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        return readers[np.lib.format.read_magic(file)](file)
    # A forged header can raise many kinds of error in the reader; all mean a bad header.
    except Exception as error:
        raise InputError(
            f"{path}: no readable .npy header; expected a file written by numpy.save"
        ) from error


def _check_npy_header(path: Path, shape: tuple[int, ...], dtype: np.dtype, *, stored: int) -> None:
    """Checks the dtype, the shape, and that the file has the size that they imply."""
    if dtype.hasobject:
        raise InputError(f"{path}: found pickled objects, expected float16, float32 or float64")
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise InputError(f"{path}: found dtype {dtype}, expected float16, float32 or float64")
    # The reader of the header accepts True as an int, but it is not a number of rows.
    if len(shape) != 2 or bool in map(type, shape) or min(shape) < 1:
        raise InputError(f"{path}: found shape {shown(shape)}, expected [num_items, width]")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != stored:
        raise InputError(
            f"{path}: the header declares {claimed} bytes ({shown(shape)}, {dtype}), but the "
            f"file has {stored}; it is truncated or damaged"
        )
