"""The members of a comparison: flag values and seeds, each with its config and folder."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_unused
from fedvlr_jax.commands.launching.member_flags import OF_ONE_RUN
from fedvlr_jax.commands.members.say import say
from fedvlr_jax.config import ALIASES, PERMUTATIONS, Config, DataConfig
from fedvlr_jax.errors import InputError
from fedvlr_jax.types import Rates

# A sweep compares user by user, so all its members need the same users and targets.
OF_USERS = {f.name for f in dataclasses.fields(DataConfig)} | {"protocol"}
OF_USERS -= {"recency", *PERMUTATIONS}
# (flag name, value) pairs, in the order of the command line.
Choice = tuple[tuple[str, Any], ...]


def label_of(choice: Choice) -> str:
    """E.g. "backbone=fcf client_lr=1.0"."""
    return " ".join(f"{name}={value}" for name, value in choice) or "default"


def folder_of(choice: Choice) -> str:
    """E.g. "backbone=fcf-client_lr=1.0", a name of a folder."""
    return "-".join(f"{name}={value}".replace("/", "_") for name, value in choice) or "default"


@dataclasses.dataclass(frozen=True)
class Member:
    """One run. `choice` has the flags that differ from the base, by name."""

    choice: Choice
    config: Config

    @property
    def label(self) -> str:
        """As `label_of`."""
        return label_of(self.choice)

    @property
    def directory(self) -> Path:
        """Its run directory."""
        return Path(self.config.run.workdir)

    @property
    def program(self) -> Config:
        """Equal for members that one compiled program can train."""
        plain: dict[str, Any] = dict.fromkeys(Rates._fields, 0.0)
        federation = dataclasses.replace(self.config.federation, **plain)
        # The noise of private exchanges depends on the seed, and belongs to the program.
        drawn = self.config.init.init != "random" and self.config.privacy.privacy != "none"
        seed = self.config.run.seed if drawn else 0
        run = dataclasses.replace(self.config.run, seed=seed, workdir="")
        return dataclasses.replace(self.config, federation=federation, run=run)


def parse_seeds(text: str) -> list[int]:
    """[0, 1, 2] of "0,1,2"."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= 2**31:
        raise InputError(
            f"--seeds={text}: give different whole numbers from 0 to {2**31 - 1}, e.g. 0,1,2,3,4"
        )
    return seeds


def parse_over(text: str) -> list[Choice]:
    """[((flag, value),), ...] of "flag=value,value"; of "a:b=1:x,2:y" flags that go together."""
    left, found, right = text.partition("=")
    names, defaults = [ALIASES.get(n, n) for n in left.split(":")], Config().flat
    for name in names:
        if not found or name not in defaults or name in OF_ONE_RUN | {"workdir", "overwrite"}:
            raise InputError(f"--over={text}: no flag that can vary; give e.g. fusion=none,mlp")
        if name in OF_USERS:
            raise InputError(
                f"--over={text}: members need the same users; give one --{name}, and run one sweep "
                "per value"
            )
    if "select" in names:
        raise InputError(
            f"--over={text}: one validation metric chooses among all members; give one --select, "
            "and run one sweep per value"
        )
    rows = [value.split(":") for value in right.split(";" if ";" in right else ",")]
    wrong = [row for row in rows if len(row) != len(names)]
    if wrong:
        raise InputError(
            f"--over={text}: found {':'.join(wrong[0])!r} for {left}; give one value per flag"
        )
    return [
        tuple(
            (name, parse_value(text, name, value)) for name, value in zip(names, row, strict=True)
        )
        for row in rows
    ]


def parse_value(text: str, name: str, value: str) -> Any:
    """`value` in the type of the flag `name`. `text` is the --over for the error message."""
    kind = type(Config().flat[name])
    try:
        return {"true": True, "false": False}[value] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise InputError(f"--over={text}: {name} takes {kind.__name__} values") from None


def base_from_flags(over: Sequence[str], **changes: Any) -> Config:
    """The `Config` of the parsed flags, with the values of the first choice of --over.

    The flags alone may lack what --over gives: --sampling=poisson --over=cohort=50,100.
    `changes` override flags by name, and --over overrides these.
    """
    first = dict(itertools.chain(*(parse_over(text)[0] for text in over)))
    return config_from_flags(**{**changes, **first})


def make_member(base: Config, choice: Choice, seed: int) -> Member:
    """`base` with the values of `choice`, in its own folder inside the base's."""
    workdir = str(Path(base.workdir) / folder_of(choice) / f"seed{seed}")
    config = base.changed(**dict(choice), seed=seed, workdir=workdir)
    return Member(choice, config.resolved)


def make_members(base: Config, over: Sequence[str], seeds: Sequence[int]) -> list[Member]:
    """All combinations, seeds innermost."""
    grid = itertools.product(*(parse_over(text) for text in over))
    choices = [tuple(itertools.chain(*parts)) for parts in grid]
    names = [name for name, _ in choices[0]]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--over: {name} is there twice; give each flag once")
    for choice in choices:
        if choices.count(choice) > 1:
            raise InputError(f"--over: {label_of(choice)} occurs twice; give each value once")
    base = with_common_init(base, choices)
    return [make_member(base, choice, seed) for choice in choices for seed in seeds]


def with_common_init(base: Config, choices: Sequence[Choice]) -> Config:
    """`base` with --init=random, if --init=auto gives a closed form to some choices only.

    Otherwise the initialization would be a second difference between the choices.
    """
    if base.init.init != "auto" or "init" in {name for choice in choices for name, _ in choice}:
        return base
    every = {base.changed(**dict(choice)).resolved.init.init for choice in choices}
    if len(every) < 2:
        return base
    say("--init=auto: random for all, because not every choice supports ease")
    return dataclasses.replace(base, init=dataclasses.replace(base.init, init="random"))


def note_unused_by(members: Sequence[Member]) -> None:
    """Prints one line for each given flag that has no effect on any member."""
    varied = {name for member in members for name, _ in member.choice}
    note_unused(*dict.fromkeys(m.config for m in members), varied=varied)
