"""Runs a command: parses its command line, and turns an error into one line and an exit status."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags, logging

from fedvlr_jax.cache import cache_folder
from fedvlr_jax.commands.launching.config_flags import flag_groups, with_preset
from fedvlr_jax.commands.launching.faults import Interrupted, OutOfMemory, missing_platform, ran_out
from fedvlr_jax.commands.launching.messages import fail, note, one_line
from fedvlr_jax.commands.launching.output import output_survives
from fedvlr_jax.errors import InputError, NonFiniteError

FLAGS = flags.FLAGS
COMMANDS_PACKAGE = "fedvlr_jax.commands."

# INTERRUPTED is EX_TEMPFAIL of sysexits: schedulers know that the command can be repeated.
BAD_INPUT, NOT_FINITE, OUT_OF_MEMORY, INTERRUPTED = 2, 3, 4, 75


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
        note(f"compiled programs are not stored ({reason}); set FEDVLR_CACHE_DIR to a folder")
        return
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# What Python says of a number that it cannot read, in plain words.
_OF_PYTHON = {
    "invalid literal for int() with base 10:": "expected a whole number, found",
    "could not convert string to float:": "expected a number, found",
}
_FILLED = textwrap.TextWrapper(96, subsequent_indent="      ")
# A long list of names breaks after a comma, and no name inside.
_FILLED.wordsep_re = re.compile(r"(\s+|(?<=,)(?=\S))")


def _print_help(description: str) -> None:
    sources = "--flagfile=FILE reads them from a file, --preset=NAME from a preset"
    print(f"{description.strip()}\n\nFlags ({sources}):")
    names: dict[str, list[str]] = {}
    for module, defined in FLAGS.flags_by_module_dict().items():
        if module in flag_groups() or module.startswith(COMMANDS_PACKAGE):
            title = module if module in flag_groups() else "this command"
            names.setdefault(title, []).extend(flag.name for flag in defined)
    for title, listed in names.items():
        print(f"\n{title}:")
        for name in listed:
            flag = FLAGS[name]
            default = f" (default: {flag.default})" if flag.default not in (None, "", []) else ""
            print(_FILLED.fill(f"--{name}  {_help_of(flag)}{default}"))


def _help_of(flag: Any) -> str:
    """The help of a flag, without what absl adds to that of a choice and of a repeated flag."""
    text = re.split(r";\s+repeat this option", str(flag.help))[0]
    choices: list[str] = getattr(flag.parser, "enum_values", [])
    added = f"<{'|'.join(choices)}>: "
    if not text.startswith(added):
        return text
    return f"{text.removeprefix(added)} One of: {', '.join(choices)}."


@contextlib.contextmanager
def _computing() -> Iterator[None]:
    """Inside the block JAX stores compiled programs and has the settings of this library."""
    from fedvlr_jax.settings import overruled, own_settings

    use_compilation_cache()
    if ignored := [name.upper() for name in overruled()]:
        note(f"these settings do not affect the results of this command: {', '.join(ignored)}")
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
            rest = FLAGS([with_preset(argument) for argument in arguments])
            if len(rest) > 1:
                raise InputError(f"{rest[1]!r}: not a flag; flags look like --rounds=50")
        except (flags.Error, InputError, OSError, UnicodeError) as error:
            text = one_line(error)
            for found, plain in _OF_PYTHON.items():
                text = text.replace(found, plain)
            fail(BAD_INPUT, text)
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
