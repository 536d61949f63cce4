"""The flags of `fedvlr heterogeneity`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.member_flags import define_member_flags


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags(overruled=("fusion", "baselines"))
    # After a closed form the content views start at 0, so the routers have no effect.
    flags.FLAGS.set_default("init", "random")
