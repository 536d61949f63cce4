"""The flags of `fedvlr watch`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.shared.launch import define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("workdir", "", "The folder of the run; may be given without --workdir.")
    flags.DEFINE_boolean("once", False, "Print what there is, and leave.")
