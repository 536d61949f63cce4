"""Lists the checkpoints of a run and the arrays in one of them.

    fedvlr show --workdir=runs/ku --values

The first table lists every checkpoint: round, size, the validation value in percent that --select
names (a dash for a state between two evaluations), and its damage if it is not whole. The second
table lists the arrays of the newest whole checkpoint, or of --round. With --values it also shows
the finite share, the mean and the standard deviation of each array.
The command writes nothing. Exit status 2: no checkpoint is whole. `fedvlr inspect` is its earlier
name.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.sealing import Damaged

FLAGS = flags.FLAGS


def survey(checkpoints: Checkpoints) -> tuple[Table, list[int]]:
    """(a table with one row per checkpoint, the rounds of the whole ones)."""
    table = Table(title=str(checkpoints.directory))
    for name in ("round", "MB", "validation", "best round", "state"):
        table.add_column(name, justify="left" if name == "state" else "right")
    whole = []
    for round_number in checkpoints.rounds():
        step = checkpoints.path(round_number)
        size = sum(p.stat().st_size for p in step.rglob("*") if p.is_file())
        score, best, state = "-", "-", "whole"
        try:
            checkpoints.verify(round_number)
            meta = checkpoints.read_meta(round_number)
            if any(entry["round"] == round_number for entry in meta.get("evaluations", ())):
                score = f"{meta['score']:.2f}"
            best = str(meta["best_round"])
            whole.append(round_number)
        except Damaged as error:
            state = f"damaged: {error}".replace(f"{step}/", "").replace(f"{step}: ", "")
        table.add_row(str(round_number), f"{size / 1e6:.2f}", score, best, Text(state))
    return table, whole


def leaves(checkpoints: Checkpoints, round_number: int, values: bool) -> Table:
    """A table with one row per leaf: shape, dtype and bytes; with `values` its statistics too."""
    table = Table(title=f"round {round_number}")
    names = ["leaf", "shape", "dtype", "bytes"] + (["finite", "mean", "std"] if values else [])
    for name in names:
        table.add_column(name, justify="left" if name in names[:3] else "right")
    total = 0
    for name, (shape, dtype) in checkpoints.read_meta(round_number)["leaves"].items():
        size = math.prod(shape) * jnp.dtype(dtype).itemsize
        total += size
        row = [name, "×".join(map(str, shape)) or "scalar", dtype, f"{size:,}"]
        if values:
            leaf = checkpoints.load_leaves(round_number, name)[""].astype(np.float64)
            finite = leaf[np.isfinite(leaf)]
            mean, std = (f"{f(finite):.4g}" if finite.size else "-" for f in (np.mean, np.std))
            row += [f"{finite.size / leaf.size:.0%}" if leaf.size else "-", mean, std]
        table.add_row(*map(Text, row))
    table.caption = f"{total / 1e6:.2f} MB in all leaves"
    return table


def main() -> None:
    if not FLAGS.workdir:
        raise InputError("--workdir: empty; give the directory of a run")
    checkpoints = Checkpoints(RunDirectory.open(FLAGS.workdir).path / "checkpoints")
    if not checkpoints.rounds():
        raise InputError(
            f"--workdir={FLAGS.workdir}: has no checkpoint; of several runs, such as those of a "
            "sweep, only the best one can have one (--keep_best_model)"
        )
    console = Console(width=None if Console().is_terminal else 160)
    table, whole = survey(checkpoints)
    console.print(table)
    if FLAGS.round is not None and FLAGS.round not in whole:
        raise InputError(
            f"--round={FLAGS.round}: no whole checkpoint of this round; give one of {whole}"
        )
    if not whole:
        raise InputError(f"--workdir={FLAGS.workdir}: no checkpoint is whole")
    chosen = whole[-1] if FLAGS.round is None else FLAGS.round
    console.print(leaves(checkpoints, chosen, FLAGS.values))
