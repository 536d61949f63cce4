"""The flags of `fedvlr evaluate`."""

from __future__ import annotations

import dataclasses

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path
from fedvlr_jax.config import RunConfig

FLAGS = flags.FLAGS

# Flags that describe the machine. Their defaults apply, whatever the run had.
OF_MACHINE = ("devices", "store", "store_dir", "memory_budget_gb")


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("workdir", "", "Directory of the run.")
    define_path("data_root", None, "Folder of the data sets, if the data moved after the run.")
    others = {field.name for field in dataclasses.fields(RunConfig)} - set(OF_MACHINE)
    define_config_flags("run", without=others)
    for name in OF_MACHINE:
        FLAGS.set_default(name, None)
    define_path("export", "", "CSV file for the best items of every user.")
    flags.DEFINE_integer("k", 50, "Number of exported items per user. Default: at most all.")
