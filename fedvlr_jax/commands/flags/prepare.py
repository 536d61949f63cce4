"""The flags of `fedvlr prepare`."""

from __future__ import annotations

from absl import flags

from fedvlr_jax.commands.launching.config_flags import define_path
from fedvlr_jax.config.prepare import (
    DUPLICATE_NAMES,
    HEADER_NAMES,
    PRESET_NAMES,
    RECIPE_NAMES,
    SPLIT_NAMES,
)

_COLUMN = "Column of the {}: a name, or a position from 1. Empty: the command searches by name."


def define_flags() -> None:
    """Defines one flag for every field of `Options`, and the other flags of this command."""
    define_path("input", "", "File of the interactions, or the folder that contains it.")
    define_path("output", "", "Folder to write, such as data/ml1m.")
    flags.DEFINE_string(
        "preset",
        "",
        "Preset options for a data set of the paper. The command refuses a result whose counts "
        "differ from the paper. Other flags override those of the preset. "
        f"One of: {', '.join(PRESET_NAMES)}.",
    )
    flags.DEFINE_boolean(
        "any_counts", False, "Accepts a --preset result whose counts differ from the paper."
    )
    flags.DEFINE_boolean("overwrite", False, "Replaces an earlier result of this command.")
    flags.DEFINE_boolean("validate", True, "Validates the result, like the command validate.")
    flags.DEFINE_string("user", "", _COLUMN.format("user"))
    flags.DEFINE_string("item", "", _COLUMN.format("item"))
    flags.DEFINE_string("rating", "", _COLUMN.format("rating") + " 'none': no ratings.")
    flags.DEFINE_string(
        "time",
        "",
        _COLUMN.format("time") + " 'lines': the order of the lines. 'random': a random order.",
    )
    flags.DEFINE_string(
        "columns",
        "",
        "Kind of every column, in order, such as user,item,rating,time. - marks an unused column.",
    )
    flags.DEFINE_string(
        "separator",
        "",
        "Separator of the fields: a character, '::', 'tab', 'space'. Empty: detected in the first "
        "line.",
    )
    flags.DEFINE_enum(
        "header",
        "auto",
        HEADER_NAMES,
        "Whether the first line has the column names. auto: yes if it contains no number.",
    )
    flags.DEFINE_string(
        "time_format",
        "",
        "Format of the dates, such as '%m/%d/%Y %H:%M:%S'. Empty: times are whole numbers or dates "
        "of ISO 8601.",
    )
    flags.DEFINE_integer(
        "time_decimals",
        0,
        "Number of decimals of fractional times to keep. The output has whole numbers, in units "
        "of the last decimal.",
    )
    define_path(
        "items",
        "",
        "File of items with titles. Empty: searched beside the interactions. 'none': no items.",
    )
    flags.DEFINE_string("item_id", "", "Column of the item id in the file of items.")
    flags.DEFINE_string("title", "", "Column of the title in the file of items.")
    flags.DEFINE_enum(
        "duplicates",
        "first",
        DUPLICATE_NAMES,
        "Interaction to keep of a repeated (user, item) pair, by time. 'merge': the first, with "
        "the mean rating; 'keep': all.",
    )
    flags.DEFINE_float("min_rating", None, "Drops interactions with a lower rating.")
    flags.DEFINE_integer("max_users", 0, "Number of users to draw at random. 0: all users.")
    flags.DEFINE_integer("seed", 0, "Seed of the draws of --max_users and --time=random.")
    flags.DEFINE_integer(
        "min_user_interactions",
        5,
        "Drops users with fewer interactions, repeatedly, together with --min_item_interactions "
        "(k-core).",
    )
    flags.DEFINE_integer(
        "min_item_interactions",
        1,
        "Drops items with fewer interactions, repeatedly, together with --min_user_interactions "
        "(k-core).",
    )
    flags.DEFINE_enum(
        "split",
        "none",
        SPLIT_NAMES,
        "Split to write as a column. 'none': no column, so training splits by time "
        "(leave-one-out).",
    )
    flags.DEFINE_enum(
        "recipe",
        "none",
        RECIPE_NAMES,
        "Preprocessing to imitate. 'mmrec': repeats the rows at the 0.8 and 0.9 quantiles of time, "
        "a fault of the preprocessing of the released KU.",
    )
