"""The space of a search: flags, and the values that each may take."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from fedvlr_jax.commands.members import Choice, label_of, parse_over
from fedvlr_jax.config import ALIASES, Config
from fedvlr_jax.errors import InputError

EXAMPLES = "e.g. --space=client_lr=log:0.1:10, --space=rounds=uniform:5:50, --space=fusion=none,mlp"
SCALES = ("log", "uniform")


class Suggests(Protocol):
    """The methods of a trial that a dimension calls; `optuna.Trial` has them."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int: ...


class Dimension(NamedTuple):
    """One --space flag: a list of choices, or a range of one numeric flag.

    Attributes:
      name: of the flag, or of several joined by colons.
      choices: the values of the flags, by label; empty for a range.
      low, high: of the range, both included. log: uniform in the logarithm.
    """

    name: str
    choices: dict[str, Choice]
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def draw(self, trial: Suggests) -> Choice:
        """The values that the trial suggests, floats rounded to four significant digits."""
        if self.choices:
            return self.choices[trial.suggest_categorical(self.name, list(self.choices))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            whole = trial.suggest_int(self.name, self.low, self.high, log=self.log)
            return ((self.name, whole),)
        value = trial.suggest_float(self.name, self.low, self.high, log=self.log)
        return ((self.name, float(f"{value:.4g}")),)

    def corners(self) -> list[Choice]:
        """The choices, or the two ends of the range."""
        if self.choices:
            return list(self.choices.values())
        return [((self.name, self.low),), ((self.name, self.high),)]


def parse_space(text: str) -> Dimension:
    """The dimension of "flag=log:LOW:HIGH", "flag=uniform:LOW:HIGH" or "flag=value,value".

    Choices have the form of `fedvlr sweep --over`.

    Raises:
      InputError: the text has another form, or names a flag that cannot vary.
    """
    name, found, right = text.partition("=")
    scale, *ends = right.split(":")
    if found and scale in SCALES:
        return _parse_range(text, ALIASES.get(name, name), scale, ends)
    try:
        choices = parse_over(text)
    except InputError as error:
        reason = error.line.removeprefix(f"--over={text}: ").partition("; give")[0]
        raise InputError(f"--space={text}: {reason}; {EXAMPLES}") from None
    labelled = {label_of(choice): choice for choice in choices}
    if len(labelled) < len(choices):
        raise InputError(f"--space={text}: a value is there twice; give each once")
    return Dimension(":".join(name for name, _ in choices[0]), labelled)


def _parse_range(text: str, name: str, scale: str, ends: Sequence[str]) -> Dimension:
    example = f"give --space={name}={scale}:LOW:HIGH with LOW < HIGH"
    if len(ends) != 2:
        raise InputError(f"--space={text}: found {len(ends)} ends of the range; {example}")
    choices = [_number(text, name, end) for end in ends]
    low, high = choices
    if not low < high or (scale == "log" and low <= 0):
        positive = " and LOW > 0" if scale == "log" else ""
        raise InputError(f"--space={text}: found {ends[0]} and {ends[1]}; {example}{positive}")
    return Dimension(name, {}, low, high, scale == "log")


def _number(text: str, name: str, end: str) -> Any:
    try:
        (((_, value),),) = parse_over(f"{name}={end}")
    except InputError as error:
        reason = error.line.partition(": ")[2].partition("; give")[0]
        raise InputError(f"--space={text}: {reason}; {EXAMPLES}") from None
    if isinstance(value, bool | str) or value != value or abs(value) == float("inf"):
        raise InputError(f"--space={text}: {end} is no end of a range of --{name}; {EXAMPLES}")
    return value


def configs_of(space: Sequence[Dimension], base: Config, most: int = 256) -> list[Config]:
    """The valid combinations of the corners of all dimensions, `most` of them."""
    found = []
    for choices in itertools.product(*(dimension.corners() for dimension in space)):
        try:
            found.append(base.changed(**dict(itertools.chain(*choices))))
        except InputError:
            continue
        if len(found) == most:
            break
    return found


def parse_spaces(texts: Sequence[str], base: Config) -> list[Dimension]:
    """The dimensions of all --space flags. Each single value is valid together with `base`.

    Raises:
      InputError: there is no dimension, a flag occurs twice, or a value is invalid.
    """
    if not texts:
        raise InputError(f"--space: nothing to search; {EXAMPLES}")
    space = [parse_space(text) for text in texts]
    names = [name for dimension in space for name in dimension.name.split(":")]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--space: {name} is there twice; give each flag one space")
    for text, dimension in zip(texts, space, strict=True):
        for choice in dimension.corners():
            try:
                base.changed(**dict(choice))
            except InputError as error:
                raise InputError(f"--space={text}: {error.line}") from None
    return space
