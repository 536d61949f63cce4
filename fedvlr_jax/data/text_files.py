"""Reads text from untrusted files: decompressed, checked to be text, and UTF-8.

Every fault is an `InputError` of one line that names the file, the row and the remedy.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from fedvlr_jax.errors import InputError, reason

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
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error
    for magic, decompress in _DECOMPRESSORS.items():
        if content.startswith(magic):
            try:
                return decompress(content)
            except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
                raise InputError(f"{path}: the compressed file is damaged ({error})") from error
    return content


def read_text(path: Path) -> bytes:
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
