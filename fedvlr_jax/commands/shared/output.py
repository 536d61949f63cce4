"""What a command prints never stops it: output that cannot be written is given up.

A pipe that is closed, a full disk behind stdout, a terminal that is gone or an encoding without
the character: the command goes on, saves, and ends with `OUTPUT_LOST` where it would end with 0.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# EX_IOERR of sysexits.
OUTPUT_LOST = 74


class Output:
    """A text stream that drops what it cannot write.

    Characters that its encoding lacks are written as \\uXXXX. All else is that of the stream.

    Attributes:
      failure: why the last failing write failed; None if all of them succeeded.
    """

    def __init__(self, stream: TextIO | None):
        """`stream`: None for one that was closed when the process started."""
        self.failure: Exception | None = None
        self._closed = stream is None
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream
        if hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._stream.write(text)
        except (OSError, ValueError) as error:  # ValueError: the stream has been closed.
            self.failure = error
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.failure = error

    def silence(self) -> None:
        """Lets go of what is still buffered, so that the end of the process does not report it."""
        with contextlib.suppress(OSError, ValueError):
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _occupy_standard_descriptors() -> None:
    """Opens those of the descriptors 0 to 2 that are closed, or the next file would get one of
    them, and with it what libraries print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


@contextlib.contextmanager
def output_survives() -> Iterator[None]:
    """Inside the block, no print fails.

    Raises:
      SystemExit: with `OUTPUT_LOST`, where the block ends well, or with status 0, but has lost
        output. One line on stderr says why, except where a reader has left its pipe.
    """
    _occupy_standard_descriptors()
    before = sys.stdout, sys.stderr
    out, errors = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = out, errors  # type: ignore[assignment]
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
    """Whether some output was lost; says so where someone may still read it."""
    out.flush()
    if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
        reason = getattr(out.failure, "strerror", None) or out.failure
        print(f"error: the output could not be written: {reason}", file=errors)
    errors.flush()
    return out.failure is not None or errors.failure is not None
