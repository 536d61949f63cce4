"""Lines for the user: commands to run next, notes, and the error that ends a command."""

from __future__ import annotations

import shlex
import sys


def one_line(error: object) -> str:
    """The message on one line, with control characters escaped."""
    text = " ".join(str(error).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def command(name: str, **flags: object) -> str:
    """The line that runs the command `name` with these flags; a shell can read it."""
    given = [f"--{flag}={value}" for flag, value in flags.items()]
    return shlex.join(["fedvlr", name, *given])


def fail(status: int, error: object) -> None:
    """Prints one line and exits with `status`."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(status)


def note(text: object) -> None:
    """Prints one line."""
    print(f"note: {one_line(text)}", file=sys.stderr)
