"""Tests a finished run again and writes what it recommends.

    python -m experiments.evaluate --workdir=runs/ku --export=recommendations.csv

The best state of the newest whole checkpoint is ranked on validation and test, and must
give the numbers of summary.json. --export writes the best --k items of every user that
it has neither in train nor in validation, with the original ids: user,rank,item,score.
"""

from __future__ import annotations

import codecs
import csv
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.launch import launch
from experiments.runs import load
from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.report import RunDirectory, replacing
from fedvlr_jax.simulation import Simulation, State, make_simulation

FLAGS = flags.FLAGS


def load_run(workdir: str, data_root: str | None = None) -> tuple[Simulation, State, int]:
    """The simulation of a run, its best state, and the round that state is of.

    Raises:
      InputError: no run, no whole checkpoint, or data that have changed since.
    """
    directory = RunDirectory.open(workdir)
    values = {**directory.read_config()["flags"], "workdir": workdir}
    if data_root is not None:
        values["data_root"] = data_root
    config = Config.from_flat(**values)
    checkpoints = Checkpoints(Path(workdir) / "checkpoints")
    newest = checkpoints.newest(print)
    if newest is None:
        raise InputError(
            f"--workdir={workdir}: holds no whole checkpoint; train first, and members of a sweep "
            "by themselves, with experiments.train: they leave none"
        )
    meta = checkpoints.read_meta(newest)
    # The notes on the data were printed when the run was trained.
    dataset = load(config, note=lambda line: None)
    if meta["fingerprint"] != dataset.fingerprint:
        raise InputError(f"--data_root={config.data.data_root}: the data have changed since")
    simulation = make_simulation(config, dataset)
    like = {"best": simulation.packed_shapes(meta["leaves"], "best")}
    best = simulation.unpack(checkpoints.load(newest, like)["best"])
    return simulation, best, meta["best_round"]


def export(simulation: Simulation, state: State, k: int, path: Path) -> None:
    """Writes the k best items of every user as CSV; a place without a candidate is left out."""
    dataset = simulation.dataset
    items, scores = simulation.recommend(state, k)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            writer = csv.writer(codecs.getwriter("utf-8")(file))
            writer.writerow(["user", "rank", "item", "score"])
            for user in range(dataset.num_users):
                for place in range(int(np.isfinite(scores[user]).sum())):
                    item = dataset.item_ids[items[user, place]]
                    score = f"{scores[user, place]:.6g}"
                    writer.writerow([dataset.user_ids[user], place + 1, item, score])
    except OSError as error:
        raise InputError(f"--export={path}: cannot be written: {error.strerror}") from error


def main() -> None:
    if not FLAGS.workdir:
        raise InputError("--workdir: give the directory of a run")
    if FLAGS.k < 1:
        raise InputError(f"--k={FLAGS.k}: give at least 1")
    simulation, state, best_round = load_run(FLAGS.workdir, FLAGS.data_root)
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


if __name__ == "__main__":
    flags.DEFINE_string("workdir", "", "The directory of a run.")
    flags.DEFINE_string("data_root", None, "Where the data lie now, if they have moved.")
    flags.DEFINE_string("export", "", "CSV file for every user's best items.")
    flags.DEFINE_integer("k", 50, "How many items a user gets.")
    launch(main, __doc__)
