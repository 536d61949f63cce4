"""Trains the same federation over seeds and over values of any flags, and compares.

    fedvlr sweep --dataset=KU --protocol=paper --seeds=0,1,2,3,4 \\
        --over=fusion=none,mlp,bilevel --workdir=runs/fusions

Members whose shapes agree (other seeds, step sizes, decays) are trained in one compiled
program; the rest one after the other. Values are separated by commas, or by semicolons
where a value holds commas: --over="views=id;id,text,image". Several --over make a grid; flags
that go together are joined by colons: --over=fusion:views=none:id,bilevel:table. All members have
the same data set; fedvlr table2 takes several.

Each member leaves a run directory of its own below --workdir, and is not trained again when
the command is repeated; a second process that is given the same --workdir meanwhile is refused.
sweep.json, sweep.csv and sweep.md hold one line a choice: mean and standard deviation over
seeds, a 95% interval by bootstrap over users, and paired Wilcoxon and t-tests over users (seeds
averaged) against the first choice; with --baselines, those stand below. The choice to keep is
the one with the best mean validation NDCG@50; test numbers are for reading. index.html shows all
of it, and has the command of each choice. --keep_best_model leaves the checkpoint of the best run
of the choice to keep, for fedvlr evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fedvlr_jax.commands.shared.comparison import compare, read_baselines, write_comparison
from fedvlr_jax.commands.shared.launch import config_from_flags
from fedvlr_jax.commands.shared.members import (
    Member,
    define_keep_best_model,
    define_member_flags,
    keep_best_model,
    make_members,
    parse_seeds,
    train_waiting,
)
from fedvlr_jax.commands.shared.runs import required_workdir
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.report import locked

FLAGS = flags.FLAGS


def main() -> None:
    base = config_from_flags()
    required_workdir(base, "runs/sweep")
    members = make_members(base, FLAGS.over, parse_seeds(FLAGS.seeds))
    with locked(base.workdir):
        datasets = train_waiting(members, keep=FLAGS.keep_best_model)
        _compare(base, members, datasets[members[0].config.data])


def _compare(base: Config, members: Sequence[Member], dataset: Dataset) -> None:
    groups: dict[str, list[Path]] = {}
    for member in members:
        groups.setdefault(member.label, []).append(member.directory)
    evaluation = base.evaluation
    baselines = read_baselines(dataset, evaluation) if evaluation.baselines else ()
    lines = compare(groups, dataset, baselines)
    if not lines:
        raise InputError("no member finished; lower the step sizes")
    title = f"{dataset.name}, protocol {base.evaluation.protocol}, seeds {FLAGS.seeds}"
    write_comparison(lines, Path(base.workdir) / "sweep", title, groups)
    if FLAGS.keep_best_model:
        (chosen,) = (line["choice"] for line in lines if line.get("chosen"))
        print(keep_best_model(groups[chosen], [member.directory for member in members]))


def define_flags() -> None:
    """Defines the flags of this command."""
    define_member_flags()
    define_keep_best_model()
    flags.DEFINE_multi_string("over", [], "A flag and the values it takes; may be repeated.")
