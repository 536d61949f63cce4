"""The flags of `fedvlr convergence`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path

FLAGS = flags.FLAGS

# Flags that would have no effect: the data are synthetic, --clients sets the users, --epochs A.
SET_HERE = (
    *("dataset", "data_root", "split", "duplicates", "recency"),
    *("synthetic_users", "local_epochs", "min_local_epochs"),
)
# The theorem's setting: plain steps without decay, because decay is not in the objective.
DEFAULTS = {
    "init": "random",
    "synthetic_items": 100,
    "rounds": 128,
    "server_optimizer": "sgd",
    "server_decay": 0.0,
    "client_decay": 0.0,
    "client_lr": 0.3,
    "router_lr": 0.03,
    "item_lr": 0.3,
    "server_lr_items": 0.3,
    "server_lr_fusion": 0.1,
    "server_lr_head": 0.1,
}


def define_flags() -> None:
    """Defines the flags of this command."""
    define_config_flags("data", "model", "federation", "init", "privacy", without=SET_HERE)
    flags.DEFINE_integer("seed", 0, "Seed of the runs.")
    define_path("workdir", "", "Folder for the table and the plot.")
    flags.DEFINE_string("clients", "10,100,1000,10000", "Numbers of clients, comma-separated.")
    flags.DEFINE_string("epochs", "1,5,10", "Numbers of local epochs, comma-separated.")
    for name, value in DEFAULTS.items():
        FLAGS.set_default(name, value)
