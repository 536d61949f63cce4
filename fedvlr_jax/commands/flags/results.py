"""The flags of `fedvlr results`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("workdir", "runs/results", "Folder of the results.")
    define_path("page", "docs/results.md", "Page to fill.")
    flags.DEFINE_bool("train", False, "First runs the commands that the page shows.")
    flags.DEFINE_list(
        "only", [], "With --train: the folders of the commands to run, comma-separated. Empty: all."
    )
