"""The flags of `fedvlr show`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("workdir", "", "Directory of the run.")
    flags.DEFINE_integer("round", None, "Round of the checkpoint. By default the newest whole one.")
    flags.DEFINE_boolean("values", False, "Reads every array and shows its statistics too.")
