"""Names that are short enough for a figure or a table."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence


def telling(labels: Sequence[str]) -> list[str]:
    """The labels of choices without the parts "name=value" that all of them have.

    Parts are joined by a space, or by "-" as in the name of a folder.
    """
    parts = [re.split(r"[ -](?=\w+=)", label) for label in labels]
    shared = set(parts[0]).intersection(*parts[1:]) if len(parts) > 1 else set()
    short = [" ".join(part for part in own if part not in shared) for own in parts]
    return short if all(short) else list(labels)


def in_lines(name: str, width: int = 26) -> str:
    """The name in at most two lines of `width` characters."""
    lines = textwrap.wrap(name, width)
    return "\n".join([*lines[:1], *([shorten(" ".join(lines[1:]), width)] if lines[1:] else [])])


def shorten(name: str, most: int = 22) -> str:
    """The first `most` characters of the name."""
    return name if len(name) <= most else name[: most - 1] + "…"
