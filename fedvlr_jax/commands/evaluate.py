"""Evaluates a run again and exports its recommendations.

    fedvlr evaluate --workdir=runs/ku --export=recommendations.csv

The command loads the best state from the newest whole checkpoint and ranks the validation and the
test part. A finished run gives the numbers of its summary.json.

--export writes the best --k items of every user, without the user's train and validation items.
The columns are user, rank, item, score, tie, and title if the data set has an items.csv; ids are
the original ones. tie is 1 if another candidate of the user has exactly the same score, so their
order has no meaning. The export leaves out items without a train interaction that tie with another
such item, because the model cannot distinguish them.

The run may come from another machine: give --data_root if the data moved. By default --store is
that of the run, or disk if the run does not fit into the memory of this machine.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.table import Table

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.flags.evaluate import OF_MACHINE
from fedvlr_jax.commands.launching.config_flags import is_given, note_no_effect, note_unused
from fedvlr_jax.commands.one_run.exporting import check_export, export
from fedvlr_jax.commands.one_run.runs import load
from fedvlr_jax.commands.one_run.saving import load_state
from fedvlr_jax.config import RESUMABLE_FLAGS, Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.machine import gigabytes
from fedvlr_jax.memory import estimate, memory_budget
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.simulation import Simulation, State, make_simulation

FLAGS = flags.FLAGS


def config_here(workdir: str, **given: Any) -> Config:
    """The config of the run in `workdir`, adapted to this machine.

    Of the resumable flags it keeps only --rounds, --data_root and --store.

    Args:
      given: flags that override those of the run. A value of None overrides nothing.
    """
    saved = RunDirectory.open(workdir).read_config()["flags"]
    taken = {"rounds", "data_root", "store"}
    values = {n: value for n, value in saved.items() if n not in RESUMABLE_FLAGS or n in taken}
    chosen = {name: value for name, value in given.items() if value is not None}
    return Config.from_flat(**{**values, "workdir": workdir, **chosen})


def make_here(config: Config, dataset: Dataset, *, store_given: bool) -> Simulation:
    """The simulation of a config. If it does not fit into memory, private rows go to the disk.

    Args:
      store_given: the user gave --store; keep it even if the rows do not fit.
    """
    simulation = make_simulation(config, dataset)
    needed, budget = sum(estimate(simulation, saves=False).values()), memory_budget(config).size
    if store_given or config.run.store == "disk" or needed <= budget:
        return simulation
    print(
        f"uses --store=disk: --store={config.run.store} needs about {gigabytes(needed)}, and this "
        f"machine allows {gigabytes(budget)}"
    )
    run = dataclasses.replace(config.run, store="disk")
    return make_simulation(dataclasses.replace(config, run=run), dataset)


def load_best(workdir: str, **given: Any) -> tuple[Simulation, State, int]:
    """(the simulation of a run, its best state, the round of that state).

    Args:
      given: as for `config_here`.

    Raises:
      InputError: there is no run or no whole checkpoint, or the data have changed.
    """
    config = config_here(workdir, **given)
    checkpoints = Checkpoints(Path(workdir) / "checkpoints")
    newest = checkpoints.newest(print)
    if newest is None:
        raise InputError(
            f"--workdir={workdir}: holds no whole checkpoint; train first with fedvlr train "
            "(members of a sweep keep no checkpoint)"
        )
    meta, data_root = checkpoints.read_meta(newest), config.data.data_root
    if config.data.dataset != "synthetic" and not Path(data_root).is_dir():
        raise InputError(
            f"--data_root={data_root}: no such folder; give --data_root=FOLDER, the folder that "
            f"now holds the data of the run ({config.data.dataset})"
        )
    # Training has already printed the notes on the data.
    dataset = load(config, note=lambda line: None)
    if meta["fingerprint"] != dataset.fingerprint:
        raise InputError(
            f"--data_root={data_root}: the data have changed since the run; give the data of the "
            "run"
        )
    simulation = make_here(config, dataset, store_given=given.get("store") is not None)
    best, _ = load_state(simulation, checkpoints, newest, "best")
    return simulation, best, meta["best_round"]


def places(num_items: int) -> int:
    """--k; its default is at most the number of items."""
    return int(FLAGS.k) if is_given("k") else min(FLAGS.k, num_items)


def note_unused_k() -> None:
    """Prints a line for a given --k without --export."""
    if not FLAGS.export:
        note_no_effect(("k",), "there is no --export")


def main() -> None:
    if not FLAGS.workdir:
        raise InputError("--workdir: empty; give the directory of a run")
    if FLAGS.k < 1:
        raise InputError(f"--k={FLAGS.k}: give at least 1")
    if FLAGS.export:
        check_export(Path(FLAGS.export), Path(FLAGS.workdir))
    given = {name: FLAGS[name].value for name in ("data_root", *OF_MACHINE)}
    simulation, state, best_round = load_best(FLAGS.workdir, **given)
    note_unused(simulation.config)
    note_unused_k()
    k = places(simulation.dataset.num_items)
    if FLAGS.export:
        simulation.check_places(k)
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
        Console().print(f"the run has not finished: its flags allow up to {rounds} rounds")
    if FLAGS.export:
        export(simulation, state, k, Path(FLAGS.export))
        users = simulation.dataset.num_users
        print(f"wrote {FLAGS.export}: the best {k} items of {users} users")
