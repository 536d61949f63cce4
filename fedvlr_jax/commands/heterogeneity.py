"""Reproduces the paper's Figure 2 on your data: router weights by client and by activity.

    fedvlr heterogeneity --dataset=KU --backbone=fedrap --workdir=runs/fig2

The command trains the backbone with bilevel fusion for all --seeds. It averages every client's
router weights and test metrics over the seeds.

heterogeneity.json, .csv and .md in --workdir have one line per activity group: users, mean weight
of each view and its spread over clients, HR@50 and NDCG@50. The plots are preferences.svg,
preferences-by-activity.svg and metrics-by-activity.svg. Each run has a run directory; when the
command is repeated, it skips finished runs. On two cores KU takes a minute with fcf and a few
minutes with fedrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from fedvlr_jax.commands.launching.config_flags import config_from_flags
from fedvlr_jax.commands.members import (
    make_member,
    note_unused_by,
    parse_seeds,
    train_waiting,
)
from fedvlr_jax.commands.one_run.runs import required_workdir
from fedvlr_jax.commands.tables.tables import write_table, write_text
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import activity_groups
from fedvlr_jax.report import RunDirectory, locked
from fedvlr_jax.report.folder import Table
from fedvlr_jax.report.plots import activity_bars
from fedvlr_jax.report.router_plots import router_by_activity, router_strip

FLAGS = flags.FLAGS


def over_seeds(users: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Every user's router weights and test metrics, averaged over the seeds."""
    mean = lambda name: np.mean([u[name] for u in users], axis=0)
    averaged = {name: mean(name) for name in ("router_weights", "hr@50", "ndcg@50")}
    return {"history_length": users[0]["history_length"], **averaged}


def by_activity(users: Mapping[str, np.ndarray], views: Sequence[str]) -> list[dict[str, Any]]:
    """One line per activity group with clients. Metrics in percent, None without targets.

    "users" are the clients of the group, "test_users" those with a test target.
    """
    length, weights = users["history_length"], users["router_weights"]
    lines = []
    for name, chosen in activity_groups(length).items():
        if not chosen.any():
            continue
        line: dict[str, Any] = {"group": name, "users": int(chosen.sum())}
        for g, view in enumerate(views):
            line[f"{view}_mean"] = float(weights[chosen, g].mean())
            line[f"{view}_sd"] = float(weights[chosen, g].std())
        tested = chosen & ~np.isnan(users["ndcg@50"])
        line["test_users"] = int(tested.sum())
        for metric in ("hr@50", "ndcg@50"):
            line[metric] = 100 * float(users[metric][tested].mean()) if tested.any() else None
        lines.append(line)
    return lines


def with_targets(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The groups as a summary has them: their users are those with a test target."""
    groups = {line["group"]: {**line, "users": line["test_users"]} for line in lines}
    return {"test": {"activity": groups}}


def main() -> None:
    seeds = parse_seeds(FLAGS.seeds)
    base = config_from_flags(fusion="bilevel", baselines=False)
    folder = required_workdir(base, "runs/fig2")
    members = [make_member(base, (), seed) for seed in seeds]
    with locked(base.workdir):
        note_unused_by(members)
        dataset = train_waiting(members, selects=False)[base.data]
    finished = [m.directory for m in members if (m.directory / "summary.json").exists()]
    if not finished:
        raise InputError("no run finished; lower the learning rates")
    runs = [RunDirectory.open(directory) for directory in finished]
    views = runs[0].read_summary()["views"]
    users = over_seeds([run.read_users() for run in runs])
    lines = by_activity(users, views)

    headings = ("interactions", "users", *views, "HR@50", "NDCG@50")
    percent = lambda value: "-" if value is None else f"{value:.2f}"
    rows = [
        [
            *(line["group"], str(line["users"])),
            *(f"{line[f'{view}_mean']:.3f} ± {line[f'{view}_sd']:.3f}" for view in views),
            *(percent(line[metric]) for metric in ("hr@50", "ndcg@50")),
        ]
        for line in lines
    ]
    title = f"{base.model.backbone} + bilevel on {dataset.name}, {len(runs)} seeds"
    caption = "Router weights: mean ± sd over clients; test metrics in percent."
    write_table(Table(title, headings, rows, caption), lines, folder / "heterogeneity")
    groups = [line["group"] for line in lines]
    figures = {
        "preferences": router_strip(users, views),
        "preferences-by-activity": router_by_activity(users, views, groups),
        "metrics-by-activity": activity_bars(with_targets(lines), users),
    }
    for name, figure in figures.items():
        if figure is not None:
            write_text(folder / f"{name}.svg", figure)
