"""The command that repeats a single run of a folder."""

from __future__ import annotations

import shlex

from fedvlr_jax.config import Config

# The folder of a run and its storage change none of its numbers.
_OF_THE_FOLDER = frozenset({"workdir", "overwrite", "resume", "store", "store_dir"})


def command_of(config: Config, workdir: str) -> str:
    """`fedvlr train` with every flag of `config` that differs from its default.

    Args:
      workdir: of the new run.
    """
    defaults = Config().flat
    given = {
        name: value
        for name, value in config.flat.items()
        if value != defaults[name] and name not in _OF_THE_FOLDER
    } | {"workdir": workdir}
    return " ".join(["fedvlr train", *(_flag(name, value) for name, value in given.items())])


def _flag(name: str, value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return shlex.quote(f"--{name}={text}")


def wrapped(command: str, width: int = 80) -> str:
    """The command in lines of at most `width` characters; a shell accepts the breaks."""
    lines = [""]
    for word in command.replace(" --", "\n--").replace(" '--", "\n'--").split("\n"):
        if not lines[-1]:
            lines[-1] = word
        elif len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {word}")
    return "\n".join(lines)
