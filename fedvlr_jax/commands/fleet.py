"""Compares the simulated time, bytes and energy that choices need to reach the same accuracy.

    fedvlr fleet --dataset=KU --cohort=100 --over=buffer=0,25,50 --seeds=0,1,2 --workdir=runs/fleet

The command trains the federation over --seeds and over the values of any flags, as fedvlr sweep
does, on a simulated clock. The default here is --deadline_s=600, so there is always a clock. Each
member has a run directory in --workdir. When the command is repeated, it skips finished members.

fleet.json, .csv and .md have one line per choice: test NDCG@50 of the selected round, simulated
hours, megabytes down and up, energy (an estimate), and the hours, megabytes and energy until the
validation NDCG@50 reaches a level. The level is the same for all choices: --level percent of the
best value of the first choice, mean over seeds. "-": not all seeds reached the level. NDCG@50 is
that of the slice (all, warm or cold targets) that selects rounds. fleet-hours.svg, fleet-bytes.svg
and fleet-wh.svg show validation NDCG@50 against hours, bytes and energy for the first seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from fedvlr_jax.commands.launching.config_flags import note_overruled
from fedvlr_jax.commands.members import (
    Member,
    base_from_flags,
    make_members,
    note_unused_by,
    parse_seeds,
    train_waiting,
)
from fedvlr_jax.commands.one_run.runs import required_workdir
from fedvlr_jax.commands.tables.tables import write_table, write_text
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import RunDirectory, locked
from fedvlr_jax.report.costs import COST_AXES, compared_curves
from fedvlr_jax.report.folder import Table
from fedvlr_jax.selection import selection_of
from fedvlr_jax.training.costs import first_reaching, judged_by

FLAGS = flags.FLAGS

HEADINGS = (
    *("choice", "seeds", "NDCG@50", "hours", "MB down", "MB up", "Wh"),
    *("hours to level", "MB to level", "Wh to level"),
)


def level_of(curves: Sequence[Sequence[Mapping[str, Any]]], percent: float) -> float:
    """`percent` of the mean over the curves of their best validation NDCG@50."""
    best = [max(point["ndcg@50"] or 0.0 for point in curve) for curve in curves]
    return percent / 100 * float(np.mean(best))


def line_of(label: str, summaries: Sequence[Mapping[str, Any]], level: float) -> dict[str, Any]:
    """The line of one choice: means over seeds; "to_level" has None if a seed missed the level."""
    costs = [summary["costs"] for summary in summaries]
    mean = lambda name: float(np.mean([cost[name] for cost in costs]))
    found = [first_reaching(cost["curve"], level) for cost in costs]
    reached = [point for point in found if point is not None]
    every = len(reached) == len(found)
    ndcg = [judged_by(selection_of(summary)).value(summary["test"]) or 0.0 for summary in summaries]
    return {
        "choice": label,
        "seeds": len(summaries),
        "ndcg@50": float(np.mean(ndcg)),
        "ndcg@50_by_seed": ndcg,
        "hours": mean("simulated_h"),
        "mb_down": mean("bytes_down") / 1e6,
        "mb_up": mean("bytes_up") / 1e6,
        "wh": float(np.mean([cost["energy"]["total_wh"] for cost in costs])),
        "level": level,
        "to_level": {
            name: float(np.mean([point[name] for point in reached])) if every else None
            for name in COST_AXES
        },
        "hours_to_level_by_seed": [None if point is None else point["hours"] for point in found],
    }


def row_of(line: Mapping[str, Any]) -> list[str]:
    """The cells of a line, in the order of HEADINGS."""
    number = lambda value: "-" if value is None else f"{value:,.3g}"
    to_level = line["to_level"]
    size = None if to_level["bytes"] is None else to_level["bytes"] / 1e6
    return [
        *(line["choice"], str(line["seeds"]), f"{line['ndcg@50']:.2f}"),
        *(number(line[name]) for name in ("hours", "mb_down", "mb_up", "wh")),
        *(number(value) for value in (to_level["hours"], size, to_level["wh"])),
    ]


def read_groups(members: Sequence[Member]) -> dict[str, list[dict[str, Any]]]:
    """The summaries of the finished members, by choice; omits choices without any."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for member in members:
        if (member.directory / "summary.json").exists():
            summary = RunDirectory.open(member.directory).read_summary()
            groups.setdefault(member.label, []).append(summary)
    return groups


def main() -> None:
    if not 0 < FLAGS.level <= 100:
        raise InputError(f"--level={FLAGS.level:g}: give a share above 0 and at most 100 percent")
    base = base_from_flags(FLAGS.over, baselines=False, patience=0)
    folder = required_workdir(base, "runs/fleet")
    members = make_members(base, FLAGS.over, parse_seeds(FLAGS.seeds))
    for member in members:
        if not member.config.fleet.has_clock:
            raise InputError("--deadline_s=0: hours need a simulated clock; give a deadline")
    with locked(base.workdir):
        note_unused_by(members)
        note_overruled({name for member in members for name, _ in member.choice}, by="over")
        dataset = train_waiting(members)[members[0].config.data]
        groups = read_groups(members)
        if not groups:
            raise InputError("no run finished; lower the step sizes")
        curves = {
            label: [summary["costs"]["curve"] for summary in summaries]
            for label, summaries in groups.items()
        }
        level = level_of(next(iter(curves.values())), FLAGS.level)
        lines = [line_of(label, summaries, level) for label, summaries in groups.items()]
        title = f"{dataset.name}, {base.evaluation.protocol}: hours, bytes and energy"
        caption = (
            f"Means over seeds. Level: validation NDCG@50 of {level:.2f} %. Energy is an estimate."
        )
        rows = [row_of(line) for line in lines]
        write_table(Table(title, HEADINGS, rows, caption), lines, Path(folder) / "fleet")
        for name, figure in compared_curves({k: v[0] for k, v in curves.items()}).items():
            write_text(Path(folder) / f"fleet-{name}.svg", figure)
