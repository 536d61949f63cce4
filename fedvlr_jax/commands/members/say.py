"""Lines that the training of members prints."""

from __future__ import annotations

from rich.console import Console


def say(line: str) -> None:
    """Prints a line as it is: no markup, no colours, not wrapped."""
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
