"""An option with its default, help text and checks."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from typing import Any

from fedvlr_jax.errors import InputError


def choice(
    default: Any,
    help: str,
    choices: tuple[str, ...] | None = None,
    *,
    resumable: bool = False,
    path: bool = False,
) -> Any:
    """A dataclass field for one option.

    Args:
      choices: the allowed values; None allows all values of the default's type.
      resumable: a saved run may resume with another value. The rounds that it has already
        computed do not depend on it.
      path: the value names a file or a folder; see `expanded`.
    """
    metadata = {"help": help, "choices": choices, "resumable": resumable, "path": path}
    return dataclasses.field(default=default, metadata=metadata)


def expanded(path: str) -> str:
    """Returns the path with a leading ~ or ~user replaced by that user's home folder.

    Raises:
      InputError: no such folder is known.
    """
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        home = whole.split("/")[0]
        raise InputError(f"{home} has no known home folder; give the whole path, or ./{whole}")
    return whole


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises InputError for a value of the flag `name` that is not one of the choices."""
    if value not in choices:
        raise InputError(f"--{name}={value}: not known; choose one of {', '.join(choices)}")


# Type of the default -> accepted types of the value. NumPy numbers are accepted.
_KINDS: dict[type, Any] = {
    bool: bool,
    int: numbers.Integral,
    float: numbers.Real,
    str: str,
}


def check_fields(group: Any) -> None:
    """Checks the type of every field and, if it has choices, that the value is one of them."""
    for field in dataclasses.fields(group):
        value: Any = getattr(group, field.name)
        kind: Any = type(field.default)
        if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind is not bool):
            raise InputError(f"--{field.name}={value!r}: give a value of type {kind.__name__}")
        if type(value) not in _KINDS:
            # A number of NumPy cannot be written as JSON.
            object.__setattr__(group, field.name, kind(value))
        if field.metadata["choices"]:
            check_choice(field.name, value, field.metadata["choices"])
        if field.metadata["path"]:
            try:
                object.__setattr__(group, field.name, expanded(value))
            except InputError as error:
                raise InputError(f"--{field.name}={value}: {error.line}") from None


def check_range(config: Any, name: str, low: float, high: float = math.inf) -> None:
    """Raises InputError for a field of `config` that is not finite or is outside [low, high]."""
    value = getattr(config, name)
    if isinstance(value, int):
        high = min(high, 2**31 - 1)  # Integers are int32 on the device.
    inside = low <= value <= high
    if not (math.isfinite(value) and inside):
        bound = f"at least {low:g}"
        bound += f" and at most {high:.10g}" if math.isfinite(high) else ""
        raise InputError(f"--{name}={value}: out of range; give a finite number of {bound}")
