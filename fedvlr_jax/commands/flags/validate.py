"""The flags of `fedvlr validate`."""

from __future__ import annotations

from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_config_flags("data")
    define_path("json", "", "JSON file for the report.")
