"""The flags of `fedvlr table3`."""

from __future__ import annotations

from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_config_flags("data", "model", "federation", "privacy", without=("backbone", "fusion"))
    define_path("workdir", "", "Folder of the table.")
