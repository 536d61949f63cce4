"""Flags of commands that train several runs."""

from __future__ import annotations

from collections.abc import Collection

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_config_flags

# --seeds sets the seeds of members. They train together on the device, and are saved before their
# end only if a signal stops the command.
OF_ONE_RUN = {
    *("seed", "resume", "store", "store_dir"),
    *("checkpoint_every", "checkpoint_share", "keep_checkpoints", "keep_best"),
}


def define_member_flags(overruled: Collection[str] = ()) -> None:
    """Defines the flags of a command that trains several seeds.

    Args:
      overruled: flags that the command sets itself.
    """
    define_config_flags(without={*OF_ONE_RUN, *overruled})
    flags.DEFINE_string("seeds", "0,1,2,3,4", "Seeds of each choice, comma-separated.")
    define_members_at_once()


def define_members_at_once() -> None:
    """The flag of a command that trains members of one program together."""
    flags.DEFINE_integer(
        "members_at_once",
        0,
        "Number of members that train in parallel. 0: one on a CPU, else as many as fit in memory.",
        lower_bound=0,
    )


def define_keep_best_model() -> None:
    """The flag of a command that chooses one of its members."""
    flags.DEFINE_boolean(
        "keep_best_model", False, "Leave a checkpoint of the best run, for fedvlr evaluate."
    )
