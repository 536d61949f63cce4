"""Turns the files of a data set, as it was downloaded, into a folder that `train` reads.

    fedvlr prepare --input=ml-1m --output=data/ml1m --min_rating=4

It reads RecBole's atomic files, MovieLens, Amazon Reviews 2018 and 2023, NineRec, and any other
table: CSV, TSV, JSON lines or parquet, plain or as .gz, .bz2, .xz or .zst. It finds the columns
by their names; --user, --item, --rating and --time overrule. Ids may be any text. Each step and
what is left after it is printed, and then what `validate` says of the result. The folder is
written whole or not at all; its manifest.json has the options, the counts and the SHA-256 of
each source. What cannot be used ends in one line and exit status 2.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedvlr_jax.commands import validate
from fedvlr_jax.commands.shared.launch import define_path
from fedvlr_jax.data.registry import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.examination import examine
from fedvlr_jax.prepare import PRESETS, Options, Prepared, prepare, prepare_preset
from fedvlr_jax.prepare.filtering import DUPLICATE_NAMES
from fedvlr_jax.prepare.splitting import RECIPE_NAMES, SPLIT_NAMES
from fedvlr_jax.prepare.tables import HEADER_NAMES

FLAGS = flags.FLAGS
_COLUMN = "Column of the {}: a name, or a position from 1; found by its name unless given."


def given_options() -> dict[str, Any]:
    """The options that the command line gives."""
    names = [field.name for field in dataclasses.fields(Options)]
    return {name: FLAGS[name].value for name in names if FLAGS[name].present}


def show(prepared: Prepared, console: Console) -> None:
    """Prints what was found, and what is left after each step."""
    for note in prepared.notes:
        console.print(Text(note), soft_wrap=True)
    table = Table(title="what is left")
    for name in ("after", "interactions", "users", "items"):
        table.add_column(name, justify="left" if name == "after" else "right")
    for step in prepared.steps:
        table.add_row(step.name, *(f"{number:,}" for number in step[1:]))
    console.print(table)
    if "preset" in prepared.manifest:
        paper, last = prepared.manifest["paper"], prepared.steps[-1]
        found = {name: getattr(last, name) for name in ("users", "items", "interactions")}
        same = all(paper[name] == number for name, number in found.items())
        counts = "as in" if same else f"not as in ({found}; paper: {paper})"
        console.print(Text(f"counts: {counts} Table 1 of the paper"), soft_wrap=True)
        for name in ("licence", "unknown"):
            console.print(Text(f"{name}: {prepared.manifest[name]}"), soft_wrap=True)


def next_command(folder: Path) -> str:
    """The command that trains on the folder."""
    root = folder.parent
    return f"fedvlr train --dataset={folder.name} --data_root={root} --workdir=runs/{folder.name}"


def main() -> None:
    for name in ("input", "output"):
        if not FLAGS[name].value:
            raise InputError(f"--{name}: give a path, e.g. --input=ml-1m --output=data/ml1m")
    if FLAGS["seed"].present and not FLAGS.max_users:
        raise InputError("--seed: is of the draw of --max_users, which is not given")
    output = Path(FLAGS.output)
    console = Console(width=None if Console().is_terminal else 120)
    if FLAGS.preset:
        prepared = prepare_preset(
            FLAGS.preset,
            FLAGS.input,
            output,
            changes=given_options(),
            any_counts=FLAGS.any_counts,
            overwrite=FLAGS.overwrite,
        )
    elif FLAGS.any_counts:
        raise InputError("--any_counts: is for a --preset, whose counts are the paper's")
    else:
        options = Options(**given_options())
        prepared = prepare(FLAGS.input, output, options, overwrite=FLAGS.overwrite)
    show(prepared, console)
    if FLAGS.validate:
        try:
            dataset = load_dataset(output.name, data_root=output.parent)
        except InputError as error:
            raise InputError(
                f"{error}; prepare again with --overwrite and other options"
            ) from error
        validate.show(examine(dataset), console)
    if (output / "items.csv").exists():
        console.print(
            Text(f"features: fedvlr features --dataset={output.name} --data_root={output.parent}"),
            soft_wrap=True,
        )
    console.print(Text(f"next: {next_command(output)}"), soft_wrap=True)


def define_flags() -> None:
    """One flag for every field of `Options`, and those of the command."""
    define_path("input", "", "The file of interactions, or the folder that has it.")
    define_path("output", "", "The folder to write, such as data/ml1m.")
    flags.DEFINE_string(
        "preset",
        "",
        "A data set of the paper: its options, and an error where its counts do not come of it. "
        f"Options that are given too overrule those of the preset. One of: {', '.join(PRESETS)}.",
    )
    flags.DEFINE_boolean("any_counts", False, "Keep a --preset whose counts are not the paper's.")
    flags.DEFINE_boolean("overwrite", False, "Replace an earlier result of this command.")
    flags.DEFINE_boolean("validate", True, "Examine the result, as the command validate does.")
    flags.DEFINE_string("user", "", _COLUMN.format("user"))
    flags.DEFINE_string("item", "", _COLUMN.format("item"))
    flags.DEFINE_string("rating", "", _COLUMN.format("rating") + " 'none': there is none.")
    flags.DEFINE_string(
        "time",
        "",
        _COLUMN.format("time") + " 'lines': the order of the lines is the time. 'none': no time.",
    )
    flags.DEFINE_string(
        "columns",
        "",
        "What every column is, in order, such as user,item,rating,time; - for one not used.",
    )
    flags.DEFINE_string(
        "separator", "", "Between fields: a character, '::' or 'tab'; found in the first line."
    )
    flags.DEFINE_enum(
        "header",
        "auto",
        HEADER_NAMES,
        "Whether the first line has the names of the columns; auto: where it has no number.",
    )
    flags.DEFINE_string(
        "time_format",
        "",
        "How dates are written, such as '%Y-%m-%d %H:%M:%S'; empty: times are whole numbers.",
    )
    flags.DEFINE_integer(
        "time_decimals", 0, "Decimals of fractional times to keep; times are then whole numbers."
    )
    define_path(
        "items", "", "File of items with titles; found beside the interactions. 'none': none."
    )
    flags.DEFINE_string("item_id", "", "Column of the item's id in the file of items.")
    flags.DEFINE_string("title", "", "Column of the title in the file of items.")
    flags.DEFINE_enum(
        "duplicates",
        "first",
        DUPLICATE_NAMES,
        "Which interaction of a repeated (user, item) pair stays, by time; 'merge': the first, "
        "with the mean rating; 'keep': all.",
    )
    flags.DEFINE_float("min_rating", None, "Drop interactions with a lower rating.")
    flags.DEFINE_integer("max_users", 0, "Draw this many users at random; 0: all.")
    flags.DEFINE_integer("seed", 0, "Seed of that draw.")
    flags.DEFINE_integer(
        "min_user_interactions", 5, "Drop users with fewer, until none is left (k-core)."
    )
    flags.DEFINE_integer(
        "min_item_interactions", 1, "Drop items with fewer, until none is left (k-core)."
    )
    flags.DEFINE_enum(
        "split",
        "none",
        SPLIT_NAMES,
        "Write this split as a column; 'none': training splits by time, leave-one-out.",
    )
    flags.DEFINE_enum(
        "recipe",
        "none",
        RECIPE_NAMES,
        "'mmrec': repeat rows at the 0.8 and 0.9 quantiles of time, a fault of the preprocessing "
        "that released KU has.",
    )
