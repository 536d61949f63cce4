"""The flags of `fedvlr table2`."""

from __future__ import annotations

import itertools

from absl import flags

from fedvlr_jax.commands.launching.member_flags import define_member_flags
from fedvlr_jax.config import BACKBONE_NAMES, FUSION_NAMES
from fedvlr_jax.config.centralized import CENTRALIZED_NAMES

METHODS = (
    # sasrec refuses data without times; name it in --methods.
    *(name for name in CENTRALIZED_NAMES if name != "sasrec"),
    *(f"{b}+{f}" for b, f in itertools.product(BACKBONE_NAMES, FUSION_NAMES)),
    "fedavg+none+groups",
    "fcf+bilevel+local",
)


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags(overruled=("backbone", "fusion", "baselines"))
    # Only some backbones and fusions support a closed form.
    flags.FLAGS.set_default("init", "random")
    flags.DEFINE_string(
        "methods",
        ",".join(METHODS),
        "Methods, comma-separated. --dataset takes several names too.",
    )
