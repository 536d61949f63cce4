"""Opens raw files: decompresses them, decodes UTF-16, and refuses files that are not text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, Self

import zstandard

from fedvlr_jax.data.text_files import UTF16, binary_format
from fedvlr_jax.errors import InputError, reason

_COMPRESSIONS = re.compile(r"\.(gz|bz2|xz|zst|zip)$", re.IGNORECASE)
_READ_ERRORS = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError),
    *(zstandard.ZstdError, zipfile.BadZipFile),
)
_START_BYTES = 512
# Compressed bytes that are decompressed at once.
_COMPRESSED_BYTES = 1 << 16
_PARQUET = b"PAR1"
# Files that some systems add to an archive.
_NO_CONTENT = re.compile(r"__MACOSX/.*|(.*/)?\.DS_Store")


def plain_name(path: Path) -> str:
    """The name of the file in lower case, without the suffix of a compression."""
    return _COMPRESSIONS.sub("", path.name).lower()


def is_parquet(path: Path) -> bool:
    """Whether the name or the first bytes are those of a parquet file.

    Raises:
      InputError: the file cannot be read.
    """
    if plain_name(path).endswith((".parquet", ".pq")):
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error


def open_plain(path: Path) -> Any:
    """Opens a text file for reading bytes.

    Decompresses the file by its first bytes (gzip, bzip2, xz, Zstandard, or a zip archive with one
    file). Converts UTF-16 with a byte-order mark to UTF-8. Read from it with `read`.

    Raises:
      InputError: it is not a file, cannot be read, or has a known format that is not text.
    """
    with _decompressed(path) as file:
        start = read(path, file, _START_BYTES)
    other = binary_format(start)
    if other:
        raise InputError(f"{path}: found {other}")
    file = _decompressed(path)
    return _Utf16(file) if start.startswith(UTF16) else file


def read(path: Path, file: Any, size: int) -> bytes:
    """At most `size` bytes of a file from `open_plain`; all bytes for the size -1.

    Raises:
      InputError: the compressed data are damaged, or the text is not UTF-16.
    """
    try:
        return file.read(size)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: found broken UTF-16 text ({error.reason}); save the file as UTF-8"
        ) from error
    except _READ_ERRORS as error:
        raise InputError(
            f"{path}: the compressed data are damaged or truncated ({error}); get the file again"
        ) from error


class _Utf16:
    """Reads a file of UTF-16 text as UTF-8."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-16")()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        while True:
            fresh = self._file.read(size)
            last = not fresh or size < 0
            text = self._decoder.decode(fresh, last)
            # An empty result would end the file, but part of a character may wait for the rest.
            if text or last:
                return text.encode()


class _Zstandard:
    """Reads the frames of a Zstandard file.

    `zstandard.open` reads a truncated file up to its last whole block and reports no error.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._rest = b""  # Decompressed and not yet read.
        self._inside = False  # Whether a frame has begun and not ended.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        parts, length = [self._rest], len(self._rest)
        while size < 0 or length < size:
            compressed = self._frame.unused_data if self._frame.eof else b""
            compressed = compressed or self._file.read(_COMPRESSED_BYTES)
            if not compressed:
                if self._inside:
                    raise EOFError("the file ends inside a frame")
                break
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            parts.append(self._frame.decompress(compressed))
            length += len(parts[-1])
            self._inside = not self._frame.eof
        text = b"".join(parts)
        end = len(text) if size < 0 else size
        self._rest = text[end:]
        return text[:end]


def _decompressed(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(b"\x1f\x8b"):
            return gzip.open(path)
        if magic.startswith(b"BZh"):
            return bz2.open(path)
        if magic.startswith(b"\xfd7zXZ"):
            return lzma.open(path)
        if magic.startswith(b"\x28\xb5\x2f\xfd"):
            return _Zstandard(path)
        if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _only_member(path)
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error


def _only_member(path: Path) -> Any:
    """The file in a zip archive of one file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            names = [name for name in names if not _NO_CONTENT.fullmatch(name)]
            if "[Content_Types].xml" in names:
                raise InputError(f"{path}: found a spreadsheet or document; save it as CSV")
            if len(names) != 1:
                raise InputError(
                    f"{path}: the archive has {len(names)} files ({', '.join(names)[:200]}); "
                    f"unpack it and give the folder: unzip {path.name} -d FOLDER"
                )
            return archive.open(names[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: the zip archive cannot be read ({error})") from error
