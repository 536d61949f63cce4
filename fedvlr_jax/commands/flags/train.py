"""The flags of `fedvlr train`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path


def define_flags() -> None:
    """Defines the flags of this command."""
    define_config_flags()
    flags.DEFINE_string(
        "coordinator",
        "",
        "Address of the first process. Empty: there is only one process; HOST:PORT: this address; "
        "auto: from the cluster (Slurm, Open MPI, Kubernetes, TPU pod).",
    )
    flags.DEFINE_integer("num_processes", 0, "Number of processes. 0: from the cluster.")
    flags.DEFINE_integer(
        "process_id", -1, "Number of this process, starting at 0. -1: from the cluster."
    )
    define_path("tensorboard", "", "Folder of the TensorBoard event files. Needs tensorboardX.")
