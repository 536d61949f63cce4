"""Turns a command line into a Config, and an error into one line and an exit status."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

import fedvlr_jax
from fedvlr_jax.cache import cache_folder
from fedvlr_jax.commands.shared.faults import Interrupted, OutOfMemory, missing_platform, ran_out
from fedvlr_jax.commands.shared.output import output_survives
from fedvlr_jax.config import ALIASES, Config, expanded, unused_by_all
from fedvlr_jax.errors import InputError, NonFiniteError

FLAGS = flags.FLAGS
COMMANDS_PACKAGE = "fedvlr_jax.commands."

# INTERRUPTED is EX_TEMPFAIL of sysexits: schedulers know that the command can be repeated.
BAD_INPUT, NOT_FINITE, OUT_OF_MEMORY, INTERRUPTED = 2, 3, 4, 75

_DEFINE: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def _groups() -> dict[str, Sequence[dataclasses.Field[Any]]]:
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
    if unknown := set(groups) - set(_groups()):
        raise ValueError(f"no such group of flags: {', '.join(sorted(unknown))}")
    for group, fields in _groups().items():
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
    names = [field.name for fields in _groups().values() for field in fields]
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
        for fields in _groups().values()
        for name in (field.name for field in fields)
        if name in varied or (name in FLAGS and _is_changed(FLAGS[name], preset))
    ]
    for flag in unused_by_all(configs, [name for name in given if name not in used]):
        _note(flag.line)


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
            _note(f"--{name}={value} has no effect: {why}")


def _is_changed(flag: flags.Flag[Any], preset: Mapping[str, str]) -> bool:
    """Whether the command line gives the flag another value than its default and the preset's."""
    return flag.value != flag.default and not _is_of_preset(flag, preset)


def _is_of_preset(flag: flags.Flag[Any], preset: Mapping[str, str]) -> bool:
    return flag.name in preset and flag.parser.parse(preset[flag.name]) == flag.value


def _preset_values(arguments: Sequence[str]) -> dict[str, str]:
    """The flags of every --preset among the arguments, as text."""
    files = [_with_preset(argument) for argument in arguments if "preset=" in argument]
    lines = [
        line.removeprefix("--").partition("=")
        for file in files
        for line in Path(file.partition("=")[2]).read_text(encoding="utf-8").splitlines()
        if line.startswith("--")
    ]
    return {name: value for name, _, value in lines}


def whole_numbers(name: str, text: str) -> list[int]:
    """[10, 100] of "10,100"."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise InputError(f"--{name}={text}: give positive whole numbers, e.g. 1000,10000")
    return numbers


def use_compilation_cache() -> None:
    """Stores compiled programs in a folder of the user, so that a second start compiles nothing.

    FEDVLR_CACHE_DIR names another folder; if it is empty, nothing is stored. If the folder cannot
    be used, the command prints one line and continues without it.
    """
    import jax

    try:
        folder = cache_folder()
    except (RuntimeError, OSError, InputError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        _note(f"compiled programs are not stored ({reason}); set FEDVLR_CACHE_DIR to a folder")
        return
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _note(text: object) -> None:
    print(f"note: {one_line(text)}", file=sys.stderr)


def _print_help(description: str) -> None:
    sources = "--flagfile=FILE reads them from a file, --preset=NAME from a preset"
    print(f"{description.strip()}\n\nFlags ({sources}):")
    names: dict[str, list[str]] = {}
    for module, defined in FLAGS.flags_by_module_dict().items():
        if module in _groups() or module.startswith(COMMANDS_PACKAGE):
            title = module if module in _groups() else "this command"
            names.setdefault(title, []).extend(flag.name for flag in defined)
    for title, listed in names.items():
        print(f"\n{title}:")
        for name in listed:
            flag = FLAGS[name]
            default = f" (default: {flag.default})" if flag.default not in (None, "") else ""
            print(textwrap.fill(f"--{name}  {flag.help}{default}", 96, subsequent_indent="      "))


def one_line(error: object) -> str:
    """The message on one line, with control characters escaped."""
    text = " ".join(str(error).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def fail(status: int, error: object) -> None:
    """Prints one line and exits with `status`."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(status)


def _with_preset(argument: str) -> str:
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


@contextlib.contextmanager
def _computing() -> Iterator[None]:
    """Inside the block JAX stores compiled programs and has the settings of this library."""
    from fedvlr_jax.settings import overruled, own_settings

    use_compilation_cache()
    if ignored := [name.upper() for name in overruled()]:
        _note(f"these settings do not affect the results of this command: {', '.join(ignored)}")
    with own_settings():
        yield


def launch(main: Callable[[], None], description: str, *, computes: bool = True) -> None:
    """Parses the command line and runs `main`. Bad input ends in one line and status 2.

    If the command `computes`, JAX has the settings of this library, whatever the environment sets.
    `main` loads what it needs: until the command line is parsed, JAX is not loaded.
    """

    def parse(arguments: list[str]) -> list[str]:
        if {"--help", "-help", "-h", "--helpshort", "--helpfull"} & set(arguments[1:]):
            _print_help(description)
            sys.exit(0)
        try:
            rest = FLAGS([_with_preset(argument) for argument in arguments])
            if len(rest) > 1:
                raise InputError(f"{rest[1]!r}: not a flag; flags look like --rounds=50")
        except (flags.Error, InputError, OSError, UnicodeError) as error:
            fail(BAD_INPUT, error)
        return rest

    def guarded(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            with _computing() if computes else contextlib.nullcontext():
                main()
        except InputError as error:
            fail(BAD_INPUT, error)
        except NonFiniteError as error:
            fail(NOT_FINITE, error)
        except OutOfMemory as error:
            fail(OUT_OF_MEMORY, error)
        except (MemoryError, RuntimeError, AssertionError) as error:
            if ran_out(error):
                fail(OUT_OF_MEMORY, f"out of memory: {error}")
            if reason := missing_platform():
                fail(BAD_INPUT, reason)
            raise
        except Interrupted as place:
            print(place)
            sys.exit(INTERRUPTED)
        except KeyboardInterrupt:
            fail(128 + signal.SIGINT, "interrupted")

    with output_survives():
        app.run(guarded, flags_parser=parse)
