"""The flags of `fedvlr audit`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags


def define_flags() -> None:
    """Defines the flags of this command."""
    define_config_flags()
    flags.DEFINE_integer(
        "trials", 50_000, "Number of draws with the canary, and of draws without it."
    )
    flags.DEFINE_float("confidence", 0.99, "Confidence of the lower bound.")
