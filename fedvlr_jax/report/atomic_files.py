"""Files that no reader sees half-written.

A whole file is written under another name and then renamed. A line is appended whole or not at all.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def replace_file(path: Path, content: bytes) -> None:
    """`replacing`, with all of the content."""
    with replacing(path) as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file with a temporary name. It gets its name after it is whole and on the disk."""
    # Not tempfile: its files are private to the user (mode 0600), but results are not.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: bytes) -> None:
    """Adds a line, in place of an unfinished last one: the whole line or, with an OSError, none."""
    with opened(path) as file:
        end = _end_of_whole_lines(file)
        file.truncate(end)
        file.seek(end)
        try:
            if file.write(line) != len(line):
                raise OSError("the disk took only a part of a line")
        except BaseException:
            file.truncate(end)
            raise


def opened(path: Path) -> io.FileIO:
    """The file, made if missing, to be read and written without a buffer."""
    binary = getattr(os, "O_BINARY", 0)  # Windows alone tells text from bytes.
    return open(os.open(path, os.O_RDWR | os.O_CREAT | binary, 0o666), "r+b", buffering=0)


def _end_of_whole_lines(file: io.FileIO) -> int:
    """The position of the next line; before the file's end if its last line is incomplete."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return end
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return end
    file.seek(0)
    return file.read(end).rfind(b"\n") + 1
