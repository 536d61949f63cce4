"""JSON without NaN or infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedvlr_jax.errors import InputError


def dump(name: str, value: Mapping[str, Any], indent: int | None = None) -> bytes:
    """The JSON of a file `name`. Raises ValueError, naming the field, for NaN or infinity."""
    text = json.dumps(_plain(value, name), allow_nan=False, indent=indent, ensure_ascii=False)
    return text.encode()


def _plain(value: Any, where: str) -> Any:
    """The same value in Python's own types. Raises ValueError if it is not finite."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; JSON has no such number")
    return value


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises InputError, which begins with `where`, if the content is none."""

    def refuse(constant: str) -> None:
        raise InputError(f"{where}: damaged: holds {constant}, which is no JSON number")

    try:
        value = json.loads(content, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        found = "an empty text" if not content.strip() else f"{error.msg} at {place}"
        raise InputError(f"{where}: damaged, not JSON: {found}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: damaged, not UTF-8 at byte {error.start}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: damaged: holds a {type(value).__name__}, not an object")
    return value
