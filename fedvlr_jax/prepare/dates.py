"""Recognizes the format of dates from an example."""

from __future__ import annotations

import contextlib
import datetime
import re

_ISO = re.compile(
    r"\d{4}-\d\d-\d\d"
    r"(?:(?P<between>[ T])(?P<minutes>\d\d:\d\d)(?P<seconds>:\d\d(?:\.\d+)?)?"
    r"(?P<zone>Z|[+-]\d\d:?\d\d| UTC)?)?"
)
_DAYS = (
    *("%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%Y", "%d-%m-%Y", "%Y/%m/%d"),
    *("%m %d, %Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
# Some texts fit two of these formats, so the user must choose.
_OTHERS = (
    *(day + time for day in _DAYS for time in _TIMES),
    *("%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z"),
)


def iso_format(text: str) -> str:
    """The format of a date of ISO 8601, such as "%Y-%m-%d %H:%M:%S%.f"; "" for other texts."""
    match = _ISO.fullmatch(text)
    if not match:
        return ""
    form = "%Y-%m-%d"
    if match["minutes"]:
        form += f"{match['between']}%H:%M"
    if match["seconds"]:
        form += ":%S%.f"
    zone = match["zone"] or ""
    return form + ("%z" if zone[:1] in ("+", "-") else zone)


def likely_formats(text: str) -> list[str]:
    """The known formats, other than those of ISO 8601, that a date may have."""
    found = []
    for form in _OTHERS:
        with contextlib.suppress(ValueError):
            datetime.datetime.strptime(text, form)  # noqa: DTZ007 (only whether it parses)
            found.append(form)
    return found
