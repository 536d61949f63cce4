"""The flags of `fedvlr robustness`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.member_flags import define_member_flags
from fedvlr_jax.config import AGGREGATION_NAMES, ATTACK_NAMES

FLAGS = flags.FLAGS

# int32 is the weighted mean too, and hostile uploads can exceed its fixed-point range. A secure sum
# gives the server no single upload to check.
RULES = tuple(name for name in AGGREGATION_NAMES if name not in ("int32", "fixed_mean", "secure"))
# The mean of uploads that the clients trained with the terms of --defense_*.
CLIENT_TERMS = "client_terms"
DEFENSES = (*RULES, CLIENT_TERMS)
ATTACKS = tuple(name for name in ATTACK_NAMES if name != "none")
SET_HERE = ("attack", "aggregation", "hostile_share", "target_items", "baselines", "patience")
DEFAULTS = {
    "init": "random",
    "fusion": "none",
    "width": 32,
    "rounds": 20,
    "eval_every": 20,
    "server_optimizer": "sgd",
    "server_lr_items": 100.0,
    "server_decay": 0.0,
    "defense_similarity": 1.0,
    "defense_distance": 1.0,
}


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags(overruled=SET_HERE)
    for name, value in DEFAULTS.items():
        FLAGS.set_default(name, value)
    FLAGS.set_default("seeds", "0")
    flags.DEFINE_string("attacks", ",".join(ATTACKS), "Attacks, comma-separated.")
    flags.DEFINE_string(
        "rules",
        ",".join(DEFENSES),
        f"Values of --aggregation, and {CLIENT_TERMS} for the mean with the terms of --defense_*, "
        "comma-separated.",
    )
    flags.DEFINE_string("shares", "0.05", "Hostile clients per honest client, comma-separated.")
    flags.DEFINE_string("targets", "cold", "Kinds of targets, comma-separated: cold, popular.")
