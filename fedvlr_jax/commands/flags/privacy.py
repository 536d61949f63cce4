"""The flags of `fedvlr privacy`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags

CONTENTS = ("without", "with")


def define_flags() -> None:
    """Defines the flags of this command."""
    define_config_flags(without=("privacy", "target_epsilon", "noise_multiplier", "negatives"))
    # Only some defences support a closed form.
    flags.FLAGS.set_default("init", "random")
    flags.DEFINE_float(
        "multiplier",
        1.0,
        "Standard deviation of the noise in defences with noise, as a multiple of the bound.",
    )
    flags.DEFINE_string(
        "contents",
        ",".join(CONTENTS),
        "Lines of the table, comma-separated: without images and text, with them.",
    )
    flags.DEFINE_float(
        "feature_scale", 100.0, "Length of the item rows that the server sends to its victim."
    )
