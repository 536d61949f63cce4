r"""Trains a federation over seeds and flag values, and compares them.

    fedvlr sweep --dataset=KU --protocol=paper --seeds=0,1,2,3,4 \
        --over=fusion=none,mlp,bilevel --workdir=runs/fusions

Commas separate values. Semicolons separate values that contain commas:
--over="views=id;id,text,image". Several --over give a grid. Colons join flags that vary together:
--over=fusion:views=none:id,bilevel:table. All members use the same data set; fedvlr table2 takes
several. Members that differ only in seed, step size or decay train in one compiled program.

Each member has a run directory in --workdir. When the command is repeated, it skips finished
members. A second process with the same --workdir is refused.

sweep.json, sweep.csv and sweep.md have one line per choice: mean and standard deviation over seeds,
a 95% bootstrap interval over users, and paired Wilcoxon and t-tests over users (averaged over
seeds) against the first choice. With --baselines they list the baselines too. Select a choice by
its validation value; the test numbers are only for reporting. index.html shows all of it, with the
command of each choice. --keep_best_model keeps the checkpoint of the best run of the selected
choice, for fedvlr evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fedvlr_jax.commands.launching.config_flags import note_overruled
from fedvlr_jax.commands.members import (
    Member,
    base_from_flags,
    keep_best_model,
    make_members,
    note_unused_by,
    parse_seeds,
    train_waiting,
)
from fedvlr_jax.commands.one_run.runs import required_workdir
from fedvlr_jax.commands.tables.comparison import compare, read_baselines
from fedvlr_jax.commands.tables.comparison_table import write_comparison
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines import Evaluate, evaluate_once
from fedvlr_jax.report import locked

FLAGS = flags.FLAGS


def main() -> None:
    base = base_from_flags(FLAGS.over)
    required_workdir(base, "runs/sweep")
    members = make_members(base, FLAGS.over, parse_seeds(FLAGS.seeds))
    evaluate = evaluate_once()
    with locked(base.workdir):
        note_unused_by(members)
        note_overruled({name for member in members for name, _ in member.choice}, by="over")
        datasets = train_waiting(members, keep=FLAGS.keep_best_model, evaluate=evaluate)
        _compare(base, members, datasets[members[0].config.data], evaluate)


def _compare(base: Config, members: Sequence[Member], dataset: Dataset, evaluate: Evaluate) -> None:
    groups: dict[str, list[Path]] = {}
    for member in members:
        groups.setdefault(member.label, []).append(member.directory)
    evaluation = base.evaluation
    baselines = read_baselines(dataset, evaluation, evaluate) if evaluation.baselines else ()
    lines = compare(groups, dataset, baselines)
    if not lines:
        raise InputError("no member finished; lower the learning rates")
    title = f"{dataset.name}, protocol {base.evaluation.protocol}, seeds {FLAGS.seeds}"
    write_comparison(lines, Path(base.workdir) / "sweep", title, groups)
    if FLAGS.keep_best_model:
        (chosen,) = (line["choice"] for line in lines if line.get("chosen"))
        print(keep_best_model(groups[chosen], [member.directory for member in members]))
