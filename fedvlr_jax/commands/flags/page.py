"""The flags of `fedvlr page`."""

from __future__ import annotations

from fedvlr_jax.commands.launching.config_flags import define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("workdir", "", "The folder of the runs; may be given without --workdir.")
