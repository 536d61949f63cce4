"""The flags of `fedvlr centralized`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path
from fedvlr_jax.config.centralized import CENTRALIZED_NAMES, CentralizedConfig


def define_flags() -> None:
    define_config_flags("data", "evaluation")
    default = CentralizedConfig()
    flags.DEFINE_string("model", default.model, f"Model. One of: {', '.join(CENTRALIZED_NAMES)}.")
    flags.DEFINE_string("seeds", "0,1,2,3,4", "Seeds, comma-separated.")
    flags.DEFINE_boolean(
        "tune",
        True,
        "Tunes the learning rate and one weight of the loss (sasrec: the rate of dropout) on "
        "validation.",
    )
    flags.DEFINE_float(
        "learning_rate", default.learning_rate, "Learning rate of Adam with --tune=false."
    )
    flags.DEFINE_string(
        "weights", "", "Weights of the loss, e.g. l2=0.01; of sasrec dropout=0.5. See --tune."
    )
    flags.DEFINE_integer("width", default.width, "Latent width d.")
    flags.DEFINE_integer(
        "batch_size",
        default.batch_size,
        "Maximum number of rows of a step: (user, item) pairs; of sasrec places of histories.",
    )
    flags.DEFINE_integer("epochs", default.epochs, "Maximum number of epochs.")
    define_path("workdir", "", "Folder of the results.")
    flags.DEFINE_boolean("overwrite", False, "Trains the runs in --workdir again.")
