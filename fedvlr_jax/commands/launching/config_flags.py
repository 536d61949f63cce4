"""The flags of a command and the `Config` that they give; the flags that have no effect."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

import fedvlr_jax
from fedvlr_jax.commands.launching.messages import note
from fedvlr_jax.config import ALIASES, Config, expanded, unused_by_all
from fedvlr_jax.errors import InputError

FLAGS = flags.FLAGS

_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def flag_groups() -> dict[str, Sequence[dataclasses.Field[Any]]]:
    """The fields of `Config` by the name of their group."""
    return {
        group.name: dataclasses.fields(getattr(Config(), group.name))
        for group in dataclasses.fields(Config)
    }


class _PathParser(flags.ArgumentParser[str]):
    syntactic_help = "a file or a folder"

    def parse(self, argument: str) -> str:
        return expanded(argument)


def define_path(name: str, default: str | None, help: str) -> None:
    """Defines a flag that names a file or a folder. A leading ~ is the home folder."""
    flags.DEFINE(_PathParser(), name, default, help, serializer=flags.ArgumentSerializer())


def define_config_flags(
    *groups: str, without: Collection[str] = (), only: Collection[str] = ()
) -> None:
    """Defines one flag for every field of `Config`, or of the named groups of it.

    Args:
      without: fields that the command sets itself.
      only: if not empty, define only these fields.
    """
    if unknown := set(groups) - set(flag_groups()):
        raise ValueError(f"no such group of flags: {', '.join(sorted(unknown))}")
    for group, fields in flag_groups().items():
        for field in fields:
            if (groups and group not in groups) or field.name in without:
                continue
            if only and field.name not in only:
                continue
            define = _DEFINE[type(field.default)]
            define(field.name, field.default, _help(field), module_name=group)
            for alias in _aliases_of(field.name):
                flags.DEFINE_alias(alias, field.name, module_name="aliases")


def _help(field: dataclasses.Field[Any]) -> str:
    choices = field.metadata["choices"]
    text = field.metadata["help"]
    text += f" One of: {', '.join(choices)}." if choices else ""
    return text + "".join(f" Earlier name: --{alias}." for alias in _aliases_of(field.name))


def _aliases_of(name: str) -> list[str]:
    return [old for old, new in ALIASES.items() if new == name]


def config_from_flags(**changes: Any) -> Config:
    """The Config of the parsed flags. `changes` override flags by name.

    Fields that the command does not define as flags keep their defaults.
    """
    names = [field.name for fields in flag_groups().values() for field in fields]
    values = {name: FLAGS[name].value for name in names if name in FLAGS}
    return Config.from_flat(**{**values, **changes})


def note_unused(*configs: Config, varied: Collection[str] = (), used: Collection[str] = ()) -> None:
    """Prints one line for each given flag that has no effect on any run of `configs`.

    Values that the command or a preset sets are not given.

    Args:
      varied: flags that another flag gives, such as --over.
      used: flags that the command itself uses.
    """
    preset = _preset_values(sys.argv)
    given = [
        name
        for fields in flag_groups().values()
        for name in (field.name for field in fields)
        if name in varied or (name in FLAGS and _is_changed(FLAGS[name], preset))
    ]
    for flag in unused_by_all(configs, [name for name in given if name not in used]):
        note(flag.line)


def is_given(name: str) -> bool:
    """Whether the command line itself sets the flag `name`, to whatever value."""
    preset = _preset_values(sys.argv)
    flag = FLAGS[name]
    return bool(flag.present) and not _is_of_preset(flag, preset)


def note_overruled(names: Collection[str], by: str) -> None:
    """Prints one line for each given flag among `names`, whose values the flag `by` replaces."""
    note_no_effect(names, f"--{by} sets it")


def note_no_effect(names: Collection[str], why: str) -> None:
    """Prints one line for each given flag among `names`, which have no effect in this call."""
    for name in sorted(names):
        if name in FLAGS and is_given(name):
            value = FLAGS[name].value
            value = str(value).lower() if isinstance(value, bool) else value
            note(f"--{name}={value} has no effect: {why}")


def _is_changed(flag: flags.Flag[Any], preset: Mapping[str, str]) -> bool:
    """Whether the command line gives the flag another value than its default and the preset's."""
    return flag.value != flag.default and not _is_of_preset(flag, preset)


def _is_of_preset(flag: flags.Flag[Any], preset: Mapping[str, str]) -> bool:
    return flag.name in preset and flag.parser.parse(preset[flag.name]) == flag.value


def _preset_values(arguments: Sequence[str]) -> dict[str, str]:
    """The flags of every --preset among the arguments, as text."""
    files = [with_preset(argument) for argument in arguments if "preset=" in argument]
    lines = [
        line.removeprefix("--").partition("=")
        for file in files
        for line in Path(file.partition("=")[2]).read_text(encoding="utf-8").splitlines()
        if line.startswith("--")
    ]
    return {name: value for name, _, value in lines}


def with_preset(argument: str) -> str:
    """Replaces --preset=NAME by the --flagfile of that preset; returns other arguments unchanged.

    Raises:
      InputError: there is no such preset.
    """
    flag, found, name = argument.partition("=")
    if flag not in ("--preset", "-preset"):
        return argument
    folder = Path(fedvlr_jax.__file__).parent / "presets"
    known = sorted(path.stem for path in folder.glob("*.flags"))
    if not found or name not in known:
        raise InputError(f"{argument}: no such preset; give one of {', '.join(known)}")
    return f"--flagfile={folder / f'{name}.flags'}"


def whole_numbers(name: str, text: str) -> list[int]:
    """[10, 100] of "10,100"."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise InputError(f"--{name}={text}: give positive whole numbers, e.g. 1000,10000")
    return numbers
