"""The flags of `fedvlr heterogeneity`."""

from __future__ import annotations

from fedvlr_jax.commands.shared.member_flags import define_member_flags


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags(overruled=("fusion", "baselines"))
