"""The exceptions that a user of this package is meant to see."""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """Bad input: a file, a row, a column, a flag or a combination that cannot be used.

    The message is one line that names where the fault is, what was found and what
    would be right. The command-line programs print it and exit with status 2.
    """


class NonFiniteError(ArithmeticError):
    """Training or a score met a number that is not finite.

    Attributes:
      state: the last state (`simulation.State`) whose numbers are all finite; for a score, the
        state that was scored.
    """

    def __init__(self, message: str, state: Any):
        super().__init__(message)
        self.state = state
