"""The flags of `fedvlr ceiling`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags
from fedvlr_jax.config import PERMUTATIONS

# Flags of the data that have no effect here: the recipe is that of --synthetic_kind=planted.
NOT_READ = (
    *("dataset", "data_root", "split", "duplicates", "recency"),
    *("synthetic_kind", *PERMUTATIONS),
)


def define_flags() -> None:
    """Defines the flags of this command."""
    define_config_flags("data", without=NOT_READ)
    flags.DEFINE_integer("seed", 0, "Seed of the sampler.")
