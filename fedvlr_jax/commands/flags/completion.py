"""The flags of `fedvlr completion`."""

from __future__ import annotations

from absl import flags


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("shell", "", "bash or zsh. Can be the first argument, without --shell.")
