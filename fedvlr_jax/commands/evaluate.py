"""Tests a finished run again and writes what it recommends.

    fedvlr evaluate --workdir=runs/ku --export=recommendations.csv

The best state of the newest whole checkpoint is ranked on validation and test, and must
give the numbers of summary.json. --export writes the best --k items of every user that
it has neither in train nor in validation, with the original ids: user,rank,item,score,tie, and
title where the data set has an items.csv. tie is 1 where another candidate of the user has exactly
the same score, so that the order of the two says nothing. Items without a train interaction that
tie with another such item are left out: the model cannot tell them apart, and by their number they
would fill lists in the order of their ids.

The run may come from another machine: devices, store and memory are those of this one. --store
is as the run had it, or disk where that does not fit here. Give --data_root if the data moved.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.shared.launch import define_config_flags, define_path
from fedvlr_jax.commands.shared.runs import load, titles_of
from fedvlr_jax.config import RESUMABLE_FLAGS, Config, RunConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.memory import estimate, gigabytes, memory_budget
from fedvlr_jax.report import RunDirectory, replacing
from fedvlr_jax.simulation import Simulation, State, make_simulation

FLAGS = flags.FLAGS

# Places beyond --k that an export looks at, to fill those of items that it leaves out.
MOST_SPARE_PLACES = 10_000

# Flags of the machine and not of the run: by default those of this machine, whatever the run had.
OF_MACHINE = ("devices", "store", "store_dir", "memory_budget_gb")


def config_here(workdir: str, **given: Any) -> Config:
    """The config of the run in `workdir`, for this machine.

    Of the flags that may change from one start to the next, only --rounds, --data_root and --store
    are taken over.

    Args:
      given: flags that overrule those of the run; None: not given.
    """
    saved = RunDirectory.open(workdir).read_config()["flags"]
    taken = {"rounds", "data_root", "store"}
    values = {n: value for n, value in saved.items() if n not in RESUMABLE_FLAGS or n in taken}
    chosen = {name: value for name, value in given.items() if value is not None}
    return Config.from_flat(**{**values, "workdir": workdir, **chosen})


def make_here(config: Config, dataset: Dataset, *, store_given: bool) -> Simulation:
    """The simulation of a config, with rows on the disk where they do not fit in this machine.

    `store_given`: --store says where rows lie, fit or not.
    """
    simulation = make_simulation(config, dataset)
    needed, budget = sum(estimate(simulation, saves=False).values()), memory_budget(config).size
    if store_given or config.run.store == "disk" or needed <= budget:
        return simulation
    print(
        f"--store=disk: with --store={config.run.store} this takes about {gigabytes(needed)}, of "
        f"{gigabytes(budget)} here"
    )
    run = dataclasses.replace(config.run, store="disk")
    return make_simulation(dataclasses.replace(config, run=run), dataset)


def load_run(workdir: str, **given: Any) -> tuple[Simulation, State, int]:
    """The simulation of a run, its best state, and the round that state is of.

    Args:
      given: as for `config_here`.

    Raises:
      InputError: no run, no whole checkpoint, or data that have changed since.
    """
    config = config_here(workdir, **given)
    checkpoints = Checkpoints(Path(workdir) / "checkpoints")
    newest = checkpoints.newest(print)
    if newest is None:
        raise InputError(
            f"--workdir={workdir}: holds no whole checkpoint; train first, and members of a sweep "
            "by themselves, with fedvlr train: they leave none"
        )
    meta, data_root = checkpoints.read_meta(newest), config.data.data_root
    if config.data.dataset != "synthetic" and not Path(data_root).is_dir():
        raise InputError(
            f"--data_root={data_root}: no such folder here; give --data_root=FOLDER, where the "
            f"data of the run ({config.data.dataset}) lie now"
        )
    # The notes on the data were printed when the run was trained.
    dataset = load(config, note=lambda line: None)
    if meta["fingerprint"] != dataset.fingerprint:
        raise InputError(f"--data_root={data_root}: the data have changed since")
    simulation = make_here(config, dataset, store_given=given.get("store") is not None)
    like = {"best": simulation.packed_shapes(meta["leaves"], "best")}
    best = simulation.unpack(checkpoints.load(newest, like)["best"])
    return simulation, best, meta["best_round"]


def listed(
    items: np.ndarray, scores: np.ndarray, cold: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(places int [at most k], tie bool) of one user's list, best first.

    Args:
      items, scores: [m] of one user, best first; a place without a candidate has -inf.
      cold: bool [num_items], items without a train interaction. A cold item that ties with its
        neighbour is left out if that one is cold too.
    """
    size = int(np.isfinite(scores).sum())
    items, scores = items[:size], scores[:size]
    tie = np.zeros(size, bool)
    if size:
        equal = scores[1:] == scores[:-1]
        tie[1:] |= equal
        tie[:-1] |= equal
    # Of the candidates with one score, how many are cold: such a group cannot be ordered.
    _, group, count = np.unique(scores[cold[items]], return_inverse=True, return_counts=True)
    left_out = np.zeros(size, bool)
    left_out[cold[items]] = count[group] > 1
    places = np.flatnonzero(~left_out)[:k]
    return places, tie[places]


def export(simulation: Simulation, state: State, k: int, path: Path) -> None:
    """Writes at most k items of every user as CSV, with titles where the data set has them.

    See `listed` for what is left out. A list that runs short stays short.
    """
    dataset = simulation.dataset
    titles = titles_of(simulation.config, dataset)
    cold = dataset.train.item_counts == 0
    # Room for what is left out, and one more place to see a tie at the end.
    places = min(dataset.num_items, k + min(int(cold.sum()), MOST_SPARE_PLACES) + 1)
    items, scores = simulation.recommend(state, places)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            writer = csv.writer(codecs.getwriter("utf-8")(file))
            writer.writerow(
                ["user", "rank", "item", "score", "tie", *([] if titles is None else ["title"])]
            )
            for user in range(dataset.num_users):
                chosen = zip(*listed(items[user], scores[user], cold, k), strict=True)
                for number, (place, tie) in enumerate(chosen, 1):
                    item = dataset.item_ids[items[user, place]]
                    score = f"{scores[user, place]:.6g}"
                    title = [] if titles is None else [titles[items[user, place]]]
                    writer.writerow([dataset.user_ids[user], number, item, score, int(tie), *title])
    except OSError as error:
        raise InputError(f"--export={path}: cannot be written: {error.strerror}") from error


def main() -> None:
    if not FLAGS.workdir:
        raise InputError("--workdir: give the directory of a run")
    if FLAGS.k < 1:
        raise InputError(f"--k={FLAGS.k}: give at least 1")
    given = {name: FLAGS[name].value for name in ("data_root", *OF_MACHINE)}
    simulation, state, best_round = load_run(FLAGS.workdir, **given)
    if FLAGS.export:
        simulation.check_places(FLAGS.k)
    options = simulation.config.evaluation
    table = Table(title=f"{FLAGS.workdir}: round {best_round}, percent")
    table.add_column("part")
    names = [f"{name}@{k}" for k in options.cutoffs for name in ("hr", "ndcg")]
    for name in names:
        table.add_column(name, justify="right")
    for part in ("valid", "test"):
        ranks = simulation.evaluate(state, part)
        means = averages(ranks.ahead, ranks.tied, simulation.dataset, part, options.cutoffs)
        for label, row in ((part, means), (f"{part} warm", means["warm"])):
            table.add_row(label, *(f"{row[name]:.2f}" if name in row else "-" for name in names))
    Console().print(table)
    if not (Path(FLAGS.workdir) / "summary.json").exists():
        rounds = simulation.config.federation.rounds
        Console().print(f"the run has not finished: it may have up to {rounds} rounds")
    if FLAGS.export:
        export(simulation, state, FLAGS.k, Path(FLAGS.export))
        print(f"wrote {FLAGS.export}: the {FLAGS.k} best of {simulation.dataset.num_users} users")


def define_flags() -> None:
    """Defines the flags of this command."""
    define_path("workdir", "", "The directory of a run.")
    define_path("data_root", None, "Where the data lie now, if they have moved.")
    others = {field.name for field in dataclasses.fields(RunConfig)} - set(OF_MACHINE)
    define_config_flags("run", without=others)
    for name in OF_MACHINE:
        FLAGS.set_default(name, None)
    define_path("export", "", "CSV file for every user's best items.")
    flags.DEFINE_integer("k", 50, "How many items a user gets.")
