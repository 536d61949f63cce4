"""`fedvlr NAME --flag=value`: every command under one name, from any folder."""

from __future__ import annotations

import ast
import difflib
import importlib
import os
import sys
import textwrap
from pathlib import Path

import fedvlr_jax
from fedvlr_jax.commands.launching import interrupts

COMMANDS = (
    *("train", "evaluate", "show", "sweep", "search", "validate", "prepare", "features"),
    *("ablation", "table2", "table3", "centralized", "heterogeneity", "convergence", "ceiling"),
    *("privacy", "audit", "robustness", "fleet", "results"),
    *("page", "watch", "doctor", "completion"),
)
# Earlier name of a command: its name now.
ALIASES = {"inspect": "show"}
# Commands whose first argument needs no flag name.
FIRST_ARGUMENT = {"page": "workdir", "watch": "workdir", "completion": "shell"}
# Commands that compile nothing. They do not use JAX, or only read its version and devices.
LIGHT = ("page", "watch", "doctor", "completion", "prepare", "validate")


def help_of(name: str) -> str:
    """The help of a command: the docstring of its module, read without an import."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def summary(name: str) -> str:
    """The first paragraph of a command's help, on one line."""
    return " ".join(help_of(name).split("\n\n")[0].split())


def run(name: str) -> None:
    """Runs the command `name` with the arguments of the process.

    The module that does the work, and JAX with it, loads after the command line is parsed.
    """
    interrupts.end_the_process()
    from fedvlr_jax.commands.launching.launch import launch

    if name in FIRST_ARGUMENT and len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--{FIRST_ARGUMENT[name]}={sys.argv[1]}"
    importlib.import_module(f"fedvlr_jax.commands.flags.{name}").define_flags()

    def main() -> None:
        command = importlib.import_module(f"fedvlr_jax.commands.{name}")
        interrupts.raise_exceptions()
        command.main()

    launch(main, help_of(name), computes=name not in LIGHT)


def _print_commands() -> None:
    print("fedvlr COMMAND --flag=value ...; fedvlr COMMAND --help lists the flags\n")
    width = max(map(len, COMMANDS)) + 4
    for name in COMMANDS:
        line = f"  {name}".ljust(width) + summary(name)
        print(textwrap.fill(line, 96, subsequent_indent=" " * width))


def main() -> None:
    """Runs the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    name = ALIASES.get(name, name)
    if name in ("--help", "-h", "help"):
        try:
            _print_commands()
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader closed the pipe. Without this Python reports an error at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif name == "--version":
        print(fedvlr_jax.__version__)
    elif name in COMMANDS:
        sys.argv[:2] = [f"fedvlr {name}"]
        run(name)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        print(f"error: {name!r}: no such command{meant}; fedvlr --help lists them", file=sys.stderr)
        sys.exit(2)
