"""Turns downloaded files of a data set into a folder that `train` reads.

    fedvlr prepare --input=ml-1m --output=data/ml1m --min_rating=4

The command reads RecBole's atomic files, MovieLens, Amazon Reviews 2018 and 2023, NineRec, and any
other table: CSV, TSV, JSON lines or parquet, plain or compressed (.gz, .bz2, .xz, .zst). It finds
the columns by their names; --user, --item, --rating and --time override this. Ids may be any text.

The command prints the counts after each step and the report of `validate`. It writes the whole
folder or nothing. manifest.json has the options, the counts and the SHA-256 of each source. If the
input is unusable, the command prints one line and exits with status 2.
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
from fedvlr_jax.commands.launching.messages import command
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.examination import examine
from fedvlr_jax.prepare import Options, Prepared, prepare, prepare_preset
from fedvlr_jax.prepare.options import RANDOM

FLAGS = flags.FLAGS


def given_options() -> dict[str, Any]:
    """The options that are on the command line."""
    names = [field.name for field in dataclasses.fields(Options)]
    return {name: FLAGS[name].value for name in names if FLAGS[name].present}


def show(prepared: Prepared, console: Console) -> None:
    """Prints the notes, and the counts after each step."""
    for note in prepared.notes:
        console.print(Text(note), soft_wrap=True)
    table = Table(title="counts after each step")
    for name in ("after", "interactions", "users", "items"):
        table.add_column(name, justify="left" if name == "after" else "right")
    for step in prepared.steps:
        table.add_row(step.name, *(f"{number:,}" for number in step[1:]))
    console.print(table)
    if "preset" in prepared.manifest:
        paper, last = prepared.manifest["paper"], prepared.steps[-1]
        found = {name: getattr(last, name) for name in ("users", "items", "interactions")}
        same = all(paper[name] == number for name, number in found.items())
        counts = "as in" if same else f"differ ({found}; paper: {paper}) from"
        console.print(Text(f"counts: {counts} Table 1 of the paper"), soft_wrap=True)
        for name in ("licence", "unknown"):
            console.print(Text(f"{name}: {prepared.manifest[name]}"), soft_wrap=True)


def next_command(folder: Path) -> str:
    """The command that trains on the folder."""
    name, root = folder.name, folder.parent
    return command("train", dataset=name, data_root=root, workdir=f"runs/{name}")


def main() -> None:
    for name in ("input", "output"):
        if not FLAGS[name].value:
            raise InputError(f"--{name}: empty; give a path, e.g. --input=ml-1m --output=data/ml1m")
    if FLAGS["seed"].present and not FLAGS.max_users and FLAGS.time != RANDOM:
        raise InputError(
            "--seed: does nothing without --max_users or --time=random; give one of them, or no "
            "--seed"
        )
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
        raise InputError("--any_counts: does nothing without --preset; leave it out")
    else:
        options = Options(**given_options())
        prepared = prepare(FLAGS.input, output, options, overwrite=FLAGS.overwrite)
    show(prepared, console)
    if FLAGS.validate:
        try:
            dataset = load_dataset(output.name, data_root=output.parent)
        except InputError as error:
            raise InputError(
                f"{error.line}; prepare again with --overwrite and other options"
            ) from error
        validate.show(examine(dataset), console)
    if (output / "items.csv").exists():
        features = command("features", dataset=output.name, data_root=output.parent)
        console.print(Text(f"features: {features}"), soft_wrap=True)
    console.print(Text(f"next: {next_command(output)}"), soft_wrap=True)
