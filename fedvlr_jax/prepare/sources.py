"""Reads raw text files, compressed or not, in blocks of whole lines."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.text_files import check_text
from fedvlr_jax.errors import InputError
from fedvlr_jax.prepare.opening import open_plain, read

BLOCK_BYTES = 8 << 20
# A quoted field may contain line breaks. A record longer than this has an unclosed quote.
_LONGEST_RECORD = 256 << 20
# Lines to go back until the number of quotes is even; more lines than a quoted field usually has.
_FEW_LINES = 1000


class Block(NamedTuple):
    """Whole lines of a file.

    Attributes:
      text: the bytes, valid UTF-8.
      line: the number of the first line in the file, from 1.
    """

    text: bytes
    line: int


def _last_break(text: bytes, separator: bytes) -> int:
    """The index of the end of the last complete record of `text`; 0 without one."""
    cut = text.rfind(b"\n") + 1
    if not separator or b'"' not in text:
        return cut
    # A line break is inside a quoted field if the number of quotes before it is odd.
    odd = text.count(b'"', 0, cut) % 2
    for _ in range(_FEW_LINES):
        if not (cut and odd):
            return cut
        earlier = text.rfind(b"\n", 0, cut - 1) + 1
        odd ^= text.count(b'"', earlier, cut) % 2
        cut = earlier
    return _last_break_outside(text, separator)


def _last_break_outside(text: bytes, separator: bytes) -> int:
    """`_last_break` for a text with a quote inside a field, as in 12" mix, which is no mark."""
    cut = end = 0
    for field in _quoted_field(separator).finditer(text):
        cut = text.rfind(b"\n", end, field.start()) + 1 or cut
        end = field.end()
    # An unclosed field ends with the text.
    return text.rfind(b"\n", end) + 1 or cut


@functools.cache
def _quoted_field(separator: bytes) -> re.Pattern[bytes]:
    # The quote comes first, because a search for one letter is fast.
    opening = rb'"(?:(?<=\n")|(?<=\A")|(?<=' + re.escape(separator) + rb'"))'
    return re.compile(opening + rb'(?:[^"]++|"")*+"?')


def _divide(rest: bytes, fresh: bytes, separator: bytes) -> tuple[bytes, bytes]:
    """Divides `rest` + `fresh` into whole records and the start of the next one."""
    if separator and b'"' in rest:
        rest, fresh = b"", rest + fresh
    cut = _last_break(fresh, separator)
    if not cut:
        return b"", rest + fresh
    # Copies the records once; concatenation and slicing would copy them twice.
    return b"".join((rest, memoryview(fresh)[:cut])), fresh[cut:]


def _count_lines(text: bytes) -> int:
    # Five times as fast as bytes.count.
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord("\n")))


def blocks(path: Path, *, quoted: str) -> Iterator[Block]:
    """Yields the file as blocks of whole lines, and checks that they are UTF-8 text.

    Args:
      path: compressed or not.
      quoted: the separator of fields that may be in double quotes and then contain line breaks; ""
        without such fields.

    Raises:
      InputError: damaged compression, a NUL byte, bytes that are not UTF-8, an unclosed quote.
    """
    line, rest = 1, b""
    with open_plain(path) as file:
        while True:
            fresh = read(path, file, BLOCK_BYTES)
            whole, rest = _divide(rest, fresh, quoted.encode()) if fresh else (rest, b"")
            if line == 1:
                whole = whole.removeprefix(b"\xef\xbb\xbf")
            if len(rest) > _LONGEST_RECORD:
                row = line + _count_lines(whole)
                raise InputError(
                    f"{path}, row {row}: a record of more than "
                    f"{_LONGEST_RECORD >> 20} MB (an unclosed quote?)"
                )
            if whole:
                check_text(path, whole, line)
                yield Block(whole, line)
                line += _count_lines(whole)
            if not fresh:
                return


def read_start(path: Path, size: int) -> bytes:
    """The first bytes of the decompressed file."""
    with open_plain(path) as file:
        return read(path, file, size)


def read_text(path: Path, *, fallback: str, notes: list[str]) -> str:
    """A whole small file as text.

    Args:
      fallback: the encoding of a file that is not UTF-8.
      notes: the function appends a line if it uses the fallback.
    """
    with open_plain(path) as file:
        content = read(path, file, -1)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        notes.append(
            f"{path.name}: read as {fallback}, because row {row} is not UTF-8; if letters are "
            "wrong, save the file as UTF-8"
        )
        return content.decode(fallback)
