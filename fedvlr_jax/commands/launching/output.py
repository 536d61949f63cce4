"""Output that cannot be written never stops a command.

Examples are a closed pipe, a full disk, a closed terminal, or an encoding that lacks a character.
The command drops the output, continues and saves. Its exit status is `OUTPUT_LOST` in place of 0.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from fedvlr_jax.errors import reason

# EX_IOERR of sysexits.
OUTPUT_LOST = 74


class Output:
    r"""A text stream that drops output that it cannot write.

    It writes characters that its encoding lacks as \uXXXX. All other attributes are those of the
    stream.

    Attributes:
      failure: the error of the last failed write; None if all writes succeeded.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """`stream`: None if it was closed when the process started."""
        self.failure: Exception | None = None
        self._closed = stream is None
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Returns the number of characters of `text`, written or dropped."""
        try:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: the stream has been closed.
            self.failure = error
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Writes the buffer to the stream."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.failure = error

    def silence(self) -> None:
        """Discards the buffer, so that Python reports no error at exit."""
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _occupy_standard_descriptors() -> None:
    """Opens the closed ones of the descriptors 0 to 2.

    Otherwise the next opened file would get one of them, and libraries would print into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


@contextlib.contextmanager
def output_survives() -> Iterator[None]:
    """Inside the block, no print fails.

    Raises:
      SystemExit: with `OUTPUT_LOST`, if the block ends without an error or with status 0, but
        output was lost. One line on stderr gives the reason, except for a closed pipe.
    """
    _occupy_standard_descriptors()
    before = sys.stdout, sys.stderr
    out, errors = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = out, errors
    try:
        yield
    except SystemExit as left:
        if not left.code and _lost(out, errors):
            raise SystemExit(OUTPUT_LOST) from None
        raise
    else:
        if _lost(out, errors):
            raise SystemExit(OUTPUT_LOST)
    finally:
        for stream in (out, errors):
            stream.flush()
            if stream.failure is not None:
                stream.silence()
        sys.stdout, sys.stderr = before


def _lost(out: Output, errors: Output) -> bool:
    """Whether output was lost. Prints the reason on stderr, except for a closed pipe."""
    out.flush()
    if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
        print(f"error: the output could not be written: {reason(out.failure)}", file=errors)
    errors.flush()
    return out.failure is not None or errors.failure is not None
