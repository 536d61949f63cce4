"""Prints a bash or zsh script that completes commands, flags and their values.

    fedvlr completion bash > ~/.local/share/bash-completion/completions/fedvlr
    fedvlr completion zsh  > ~/.fedvlr-completion && echo 'source ~/.fedvlr-completion' >> ~/.zshrc

The script has the flags of this version and runs no Python. Print it again after an update.
"""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

from absl import flags

import fedvlr_jax
from fedvlr_jax.commands.launching.launch import COMMANDS_PACKAGE
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError

FLAGS = flags.FLAGS
SHELLS = ("bash", "zsh")


def main() -> None:
    from fedvlr_jax.commands.cli import COMMANDS

    if FLAGS.shell not in SHELLS:
        raise InputError(f"--shell={FLAGS.shell}: give bash or zsh: fedvlr completion bash")
    print(script(FLAGS.shell, {name: flags_of(name) for name in COMMANDS}), end="")


def flags_of(command: str) -> dict[str, list[str]]:
    """The flags of a command, each with its values if there are only a few."""
    before = set(FLAGS)
    if command != "completion":
        importlib.import_module(f"{COMMANDS_PACKAGE}flags.{command}").define_flags()
    own = sorted(set(FLAGS) - before)
    found = {name: _values(name) for name in own}
    FLAGS.remove_flag_values(own)
    presets = Path(fedvlr_jax.__file__).parent / "presets"
    return {
        **found,
        "preset": sorted(path.stem for path in presets.glob("*.flags")),
        "flagfile": [],
        "help": [],
    }


def _values(name: str) -> list[str]:
    """The values of the flag if they are a short list; else []."""
    flag = FLAGS[name]
    if isinstance(flag, flags.EnumFlag):
        return list(flag.parser.enum_values)
    if isinstance(flag.default, bool):
        return ["true", "false"]
    return list(CHOICES.get(name, ()))


# Values of the configuration's flags by name.
CHOICES = {
    field.name: field.metadata["choices"]
    for group in dataclasses.fields(Config)
    for field in dataclasses.fields(getattr(Config(), group.name))
    if field.metadata["choices"]
}


def script(shell: str, commands: dict[str, dict[str, list[str]]]) -> str:
    """The script for a shell. `commands`: {command: {flag: values}}."""
    lines = ["# Completion of fedvlr; made by: fedvlr completion " + shell]
    if shell == "zsh":
        lines.append(
            "autoload -U +X compinit && compinit; autoload -U +X bashcompinit && bashcompinit"
        )
    lines += ["_fedvlr() {", *_BODY, '  case "${COMP_WORDS[1]}" in']
    for name, found in commands.items():
        names = " ".join(f"--{flag}=" if flag != "help" else "--help" for flag in found)
        lines.append(f'    {name}) flags="{names}"')
        lines.append('      case "$flag" in')
        for flag, values in found.items():
            if values:
                lines.append(f'        --{flag}) values="{" ".join(values)}" ;;')
        lines.append("      esac ;;")
    lines += ["  esac", *_END, "}", "complete -o nospace -F _fedvlr fedvlr"]
    return "\n".join(lines).replace("@COMMANDS@", " ".join(commands)) + "\n"


# bash passes --flag=value as three words, zsh as one.
_BODY = (
    '  local cur="${COMP_WORDS[COMP_CWORD]}" flag="" value="" flags="" values="" head=""',
    '  if [ "$COMP_CWORD" -le 1 ]; then',
    '    COMPREPLY=($(compgen -W "@COMMANDS@ --help --version" -S " " -- "$cur")); return',
    "  fi",
    '  if [ "$cur" = "=" ]; then flag="${COMP_WORDS[COMP_CWORD-1]}"',
    '  elif [ "${COMP_WORDS[COMP_CWORD-1]}" = "=" ]; then',
    '    flag="${COMP_WORDS[COMP_CWORD-2]}"; value="$cur"',
    '  elif [ "${cur#*=}" != "$cur" ]; then',
    '    flag="${cur%%=*}"; value="${cur#*=}"; head="$flag="',
    "  fi",
)
_END = (
    '  if [ -z "$flag" ]; then COMPREPLY=($(compgen -W "$flags" -- "$cur"))',
    '  elif [ -n "$values" ]; then',
    '    COMPREPLY=($(compgen -P "$head" -S " " -W "$values" -- "$value"))',
    '  else COMPREPLY=($(compgen -P "$head" -f -- "$value")); fi',
)
