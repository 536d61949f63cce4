"""The flags of `fedvlr search`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags
from fedvlr_jax.commands.launching.member_flags import (
    OF_ONE_RUN,
    define_keep_best_model,
    define_members_at_once,
)


def define_flags() -> None:
    """Defines the flags of this command."""
    # A trial is saved before its end only when a signal stops the search.
    define_config_flags(without={*OF_ONE_RUN - {"seed"}, "overwrite"})
    define_keep_best_model()
    define_members_at_once()
    flags.DEFINE_multi_string("space", [], "A flag and its values or range; may be repeated.")
    flags.DEFINE_integer("trials", 30, "Trials, over all processes and starts.")
    flags.DEFINE_integer(
        "batch",
        1,
        "Trials that are drawn together; those that differ only in step sizes and decays train in "
        "one compiled program.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "budget", 0, "No trial begins once so many rounds are trained; 0: no limit."
    )
    flags.DEFINE_enum("sampler", "tpe", ["tpe", "random"], "Sampler of the values of a trial.")
    flags.DEFINE_integer("search_seed", 0, "Seed of the sampler.", lower_bound=0)
    flags.DEFINE_boolean("prune", True, "End trials that are behind the median of earlier ones.")
