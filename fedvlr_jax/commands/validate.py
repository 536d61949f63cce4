"""Loads a data set and reports its contents before training.

    fedvlr validate --dataset=KU --json=ku.json

If the data set is unusable, the command prints one line with the file, the row and the column, and
exits with status 2. Otherwise it reports: users and items; cold targets (items without a train
interaction); users whose split is out of order in time; norms, zero rows and repeated rows of the
features; and whether content-kNN ranks better than with shuffled feature rows. If it does not,
feature row i may not belong to item i.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_unused
from fedvlr_jax.commands.one_run.runs import load
from fedvlr_jax.errors import InputError, reason
from fedvlr_jax.evaluation.examination import Examination, examine

FLAGS = flags.FLAGS


def rows_of(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, value) of each printed line, in order."""
    history, without, cold = facts["history"], facts["users_without"], facts["cold_targets"]
    late = facts["out_of_order"]
    return [
        ("users", f"{facts['users']:,}"),
        (
            "items",
            (
                f"{facts['items']:,}; {facts['items_without_train']:,} of them not in train, "
                f"{facts['items_absent']:,} in no part"
            ),
        ),
        ("split", facts["split"]),
        ("train, valid, test", " / ".join(f"{facts[p]:,}" for p in ("train", "valid", "test"))),
        ("history length", f"{history['fewest']} to {history['most']}, median {history['median']}"),
        ("users without valid, test", f"{without['valid']:,} / {without['test']:,}"),
        ("cold valid, test targets", f"{cold['valid']:,} / {cold['test']:,}"),
        ("users out of order in time", "no time stamps" if late is None else f"{late:,}"),
    ]


def feature_table(facts: dict[str, Any]) -> Table:
    table = Table(title="item features")
    names = ("modality", "width", "norm", "zero rows", "repeated", "kNN", "shuffled", "deviations")
    for name in names:
        table.add_column(name, justify="left" if name == "modality" else "right")
    for modality, feature in facts["features"].items():
        norm = feature["norm"]
        table.add_row(
            Text(modality),
            str(feature["width"]),
            f"{norm['least']:.3g} to {norm['most']:.3g}",
            str(feature["zero_rows"]),
            str(feature["repeated_rows"]),
            f"{feature['knn_percentile']:.1f}%",
            f"{feature['chance_percentile']:.1f}%",
            f"{feature['deviations']:+.1f}",
        )
    table.caption = "kNN: share of items that content-kNN ranks behind a held-out item"
    return table


def verdict(facts: dict[str, Any]) -> str:
    return "usable" if facts["test"] else "not usable"


def show(examination: Examination, console: Console) -> None:
    facts = examination.facts
    table = Table(title=Text(f"{facts['name']}: {facts['fingerprint'][:12]}"), show_header=False)
    for row in rows_of(facts):
        table.add_row(*row)
    console.print(table)
    if facts["features"]:
        console.print(feature_table(facts))
    for note in facts["notes"]:
        console.print(Text(f"loader: {note}"), soft_wrap=True)
    for warning in examination.warnings:
        console.print(Text(f"warning: {warning}"), soft_wrap=True)
    pause = "; read the warnings above first" if examination.warnings else ""
    console.print(Text(f"verdict: {verdict(facts)}{pause}"))


def main() -> None:
    config = config_from_flags()
    examination = examine(load(config, note=lambda line: None))
    note_unused(config)
    show(examination, Console(width=None if Console().is_terminal else 120))
    if FLAGS.json:
        result = {
            "verdict": verdict(examination.facts),
            "warnings": examination.warnings,
            **examination.facts,
        }
        try:
            Path(FLAGS.json).write_text(json.dumps(result, indent=2), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--json={FLAGS.json}: cannot be written: {reason(error)}") from error
