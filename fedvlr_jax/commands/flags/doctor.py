"""The flags of `fedvlr doctor`."""

from __future__ import annotations

from fedvlr_jax.commands.launching.config_flags import define_path
from fedvlr_jax.config import DataConfig


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("data_root", DataConfig().data_root, "Folder with one folder per data set.")
