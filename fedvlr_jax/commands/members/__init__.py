"""The members of a comparison: runs that differ in seeds and flag values, each with a folder.

- `choices.py`: the flag values and seeds of each member. `folders.py`: its folder.
- `training.py`: trains members, together where one compiled program can. `tuning.py`: tunes a
  choice with one seed.
"""

from fedvlr_jax.commands.members.choices import (
    Choice,
    Member,
    base_from_flags,
    folder_of,
    label_of,
    make_member,
    make_members,
    note_unused_by,
    parse_over,
    parse_seeds,
    parse_value,
)
from fedvlr_jax.commands.members.folders import (
    begin_directory,
    check_member,
    checkpoints_of,
    complete,
    finished_results,
    keep_best_model,
    leave_out,
)
from fedvlr_jax.commands.members.training import (
    MemberOptions,
    Watch,
    train_group,
    train_together,
    train_waiting,
)
from fedvlr_jax.commands.members.tuning import tuned

__all__ = [
    "Choice",
    "Member",
    "MemberOptions",
    "Watch",
    "base_from_flags",
    "begin_directory",
    "check_member",
    "checkpoints_of",
    "complete",
    "finished_results",
    "folder_of",
    "keep_best_model",
    "label_of",
    "leave_out",
    "make_member",
    "make_members",
    "note_unused_by",
    "parse_over",
    "parse_seeds",
    "parse_value",
    "train_group",
    "train_together",
    "train_waiting",
    "tuned",
]
