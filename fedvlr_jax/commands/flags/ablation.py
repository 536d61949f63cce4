"""The flags of `fedvlr ablation`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.member_flags import define_member_flags
from fedvlr_jax.config import PERMUTATIONS

CLAIMS = ("content", "personal", "federation", "order", "levels", "modalities", "operators")
DEFAULT_CLAIMS = CLAIMS[:3]


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags(overruled=("fusion", "baselines", *PERMUTATIONS))
    flags.DEFINE_string(
        "claims",
        ",".join(DEFAULT_CLAIMS),
        f"Claims to test, comma-separated. Known: {', '.join(CLAIMS)}.",
    )
