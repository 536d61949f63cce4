"""The exceptions for faults that a user can correct."""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """Bad input: an unusable file, row, column, flag or combination of flags.

    The message is one line. It names the place of the fault, the value found and a correct value.
    The commands print it and exit with status 2.
    """


class NonFiniteError(ArithmeticError):
    """Training or a score met a number that is not finite.

    Attributes:
      state: the last state (`simulation.State`) whose numbers are all finite; for a score, the
        state that was scored.
    """

    def __init__(self, message: str, state: Any) -> None:
        super().__init__(message)
        self.state = state
