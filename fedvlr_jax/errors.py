"""The exceptions for faults that a user can correct."""

from __future__ import annotations

import re
from typing import Any

# Before the name of an option: at the start, or after a space, a quote or a parenthesis.
_DASHES = re.compile(r"(?<![^\s(\"'`])--(?=[a-z])")


class _Explained(Exception):
    """A fault in one line. `str` names options as Python does: rounds=0, not --rounds=0.

    Attributes:
      line: the same with the options as flags, for the command line.
    """

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line

    def __str__(self) -> str:
        return _DASHES.sub("", self.line)


class InputError(_Explained, ValueError):
    """Bad input: an unusable file, row, column, option or combination of options.

    The message is one line. It names the place of the fault, the value found and a correct value.
    The commands print it, with options as flags, and exit with status 2.
    """


class NonFiniteError(_Explained, ArithmeticError):
    """Training or a score met a number that is not finite.

    Attributes:
      state: the last state (`simulation.State`) whose numbers are all finite; for a score, the
        state that was scored.
    """

    def __init__(self, line: str, state: Any) -> None:
        super().__init__(line)
        self.state = state


def reason(error: BaseException) -> str:
    """The words of the system for a failure; those of the error where a library gives no others."""
    return getattr(error, "strerror", None) or str(error)
