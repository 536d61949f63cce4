"""The flags of `fedvlr results`."""

from __future__ import annotations

from fedvlr_jax.commands.shared.launch import define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("workdir", "runs/results", "Folder of the results.")
    define_path("page", "docs/results.md", "Page to fill.")
