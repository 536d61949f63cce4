"""The flags of `fedvlr sweep`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.member_flags import define_keep_best_model, define_member_flags


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags()
    define_keep_best_model()
    flags.DEFINE_multi_string(
        "over", [], "A flag and its values, e.g. fusion=none,mlp. Can be repeated."
    )
