"""The flags of `fedvlr fleet`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.member_flags import define_member_flags

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags(overruled=("baselines", "patience"))
    FLAGS.set_default("deadline_s", 600.0)
    flags.DEFINE_multi_string(
        "over", [], "A flag and its values, e.g. buffer=0,25,50. Can be repeated."
    )
    flags.DEFINE_float(
        "level", 90.0, "Level, in percent of the best validation NDCG@50 of the first choice."
    )
