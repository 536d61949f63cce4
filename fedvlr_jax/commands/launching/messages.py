"""Lines for the user: commands to run next, notes, and the error that ends a command."""

from __future__ import annotations

import shlex
import sys

from fedvlr_jax.errors import InputError, NonFiniteError


def one_line(error: object) -> str:
    """The message on one line, with options as flags and control characters escaped."""
    text = error.line if isinstance(error, InputError | NonFiniteError) else str(error)
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split()))


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
