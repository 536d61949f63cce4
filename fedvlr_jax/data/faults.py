"""The errors of the loaders: one line, with the value found and the value expected."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fedvlr_jax.errors import InputError


def shown(value: object) -> str:
    """A value found in the input, quoted on one line and shortened."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "an empty or missing value"
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def fault(path: Path, row: int, column: str, found: object, right: str) -> InputError:
    """The error for one cell. A column name that is long or not printable is quoted by `shown`."""
    name = column if column.isprintable() and len(column) <= 60 else shown(column)
    return InputError(f"{path}, row {row}, column {name}: found {shown(found)}, expected {right}")
