"""The flags of `fedvlr watch`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("workdir", "", "Folder of the run. Can be the first argument, without --workdir.")
    flags.DEFINE_boolean("once", False, "Prints the present lines and exits.")
