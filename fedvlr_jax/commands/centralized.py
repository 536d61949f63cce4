"""Trains and evaluates a centralized multimodal or sequential model over seeds.

    fedvlr centralized --model=vbpr --dataset=KU --protocol=paper --workdir=runs/vbpr

Models: vbpr, bm3, mgcn, pgl need item features; sasrec (self-attention over the last 50 items in
order of time) needs times. Split, ranking, ties, mask, negatives and slices are the same as in
fedvlr train; --eval_every and --patience count epochs. By default the command tunes the learning
rate and one weight of the loss (of sasrec the rate of dropout): it tries nine settings with the
first seed and selects one on validation by --select. --tune=false trains only with --learning_rate
and --weights.

Each run has a run directory in --workdir. When the command is repeated, it skips finished runs.
centralized.json, .csv and .md have the comparison, tuning.json the tried settings. On two cores a
model takes about a minute on KU and a quarter of an hour on ML (sasrec with --epochs=100). Exit
status: 0 done, 2 bad input.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fedvlr_jax.centralized import (
    LEARNING_RATES,
    CentralizedConfig,
    CentralizedResult,
    Trainer,
    make_centralized,
)
from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_unused
from fedvlr_jax.commands.members import (
    Choice,
    check_member,
    complete,
    folder_of,
    leave_out,
    parse_seeds,
    tuned,
)
from fedvlr_jax.commands.members.say import say
from fedvlr_jax.commands.one_run.finished import validation, write_results
from fedvlr_jax.commands.one_run.runs import describe, load, required_workdir
from fedvlr_jax.commands.tables.comparison import compare
from fedvlr_jax.commands.tables.comparison_table import write_comparison
from fedvlr_jax.commands.tables.tables import write_text
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.selection import resolve_selection
from fedvlr_jax.machine import peak_rss_mb
from fedvlr_jax.report import RunDirectory, locked
from fedvlr_jax.training.summary import (
    BaselineSummary,
    summarise_baselines,
    summarise_ranks,
    with_baselines,
)

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True, kw_only=True)
class CentralizedRun:
    """One training.

    Attributes:
      choice: the learning rate and the tuned weight, by name.
      base: data and evaluation; its workdir contains the directories of all runs.
    """

    choice: Choice
    seed: int
    model: CentralizedConfig
    base: Config

    @property
    def directory(self) -> Path:
        return Path(self.base.workdir) / folder_of(self.choice) / f"seed{self.seed}"

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """The options of the run, by group, as in config.json."""
        evaluation = vars(self.base.evaluation)
        model = {**vars(self.model), "weights": dict(self.model.weights)}
        groups = {"data": vars(self.base.data), "evaluation": evaluation, "model": model}
        return {**groups, "run": {"seed": self.seed}}

    @property
    def flat(self) -> dict[str, Any]:
        return {k: v for group in self.groups.values() for k, v in group.items()}


def parse_weights(text: str) -> dict[str, float]:
    """'l2=0.01,contrast=0.1' as a dict; the model checks the names."""
    weights = {}
    for entry in filter(None, text.split(",")):
        name, _, value = entry.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise InputError(
                f"--weights={text}: found {entry!r}; give NAME=NUMBER, e.g. l2=0.01"
            ) from None
    return weights


def make_run(base: Config, model: CentralizedConfig, choice: Choice, seed: int) -> CentralizedRun:
    """`model` with the learning rate and the weights of `choice`."""
    values = dict(choice)
    learning_rate = values.pop("learning_rate", model.learning_rate)
    weights = {**model.weights, **values}
    changed = dataclasses.replace(model, learning_rate=learning_rate, weights=weights)
    return CentralizedRun(choice=choice, seed=seed, model=changed, base=base)


def grid(trainer: Trainer) -> list[Choice]:
    """The nine settings that tuning tries."""
    weight, values = trainer.model.grid
    pairs = itertools.product(LEARNING_RATES, values)
    return [(("learning_rate", rate), (weight, value)) for rate, value in pairs]


def train_waiting(
    runs: Sequence[CentralizedRun],
    trainer: Trainer,
    dataset: Dataset,
    baselines: Callable[[], BaselineSummary],
) -> None:
    """Trains the unfinished runs and writes their directories."""
    waiting = []
    for run in runs:
        described = functools.partial(_describe, run, dataset)
        if not run.base.run.overwrite:
            check_member(run.directory, run.flat, dataset.fingerprint)
            if complete(run.directory, run.flat, described, baselines):
                continue
        waiting.append(run)
    for run in waiting:
        directory = RunDirectory.create(run.directory, overwrite=True)
        began = time.perf_counter()
        result = trainer.fit(run.seed, run.model.learning_rate, run.model.weights)
        seconds = time.perf_counter() - began
        if not result.best_epoch:
            leave_out(run.directory, "diverged")
            continue
        found = _summarise(run, result, dataset, seconds)
        summary, users = with_baselines(*found, baselines())
        directory.write_config(_describe(run, dataset))
        directory.write_metrics(result.evaluations)
        write_results(directory, summary, users)
        say(
            f"{run.directory}: validation {summary['select']} {validation(summary):.2f} at epoch "
            f"{result.best_epoch}, {seconds:.1f} s"
        )


def _describe(run: CentralizedRun, dataset: Dataset) -> dict[str, Any]:
    return {**describe(run.base, dataset), "flags": run.flat, "groups": run.groups}


def _summarise(
    run: CentralizedRun, result: CentralizedResult, dataset: Dataset, seconds: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(summary, users) as of a federated run, with None or empty values for federated parts."""
    parts, users = summarise_ranks(dataset, result.ranks, run.base.evaluation.cutoffs)
    summary = {
        "dataset": dataset.name,
        "protocol": run.base.evaluation.protocol,
        "backbone": run.model.model,
        "fusion": "none",
        "seed": run.seed,
        "select": str(resolve_selection(run.base.evaluation.selection, dataset)),
        "selected_round": result.best_epoch,
        "rounds_run": result.epochs_run,
        "stopped": result.stopped,
        **parts,
        "views": [],
        "router": None,
        "planted_spearman": None,
        "timing": {"total_s": seconds},
        "peak_rss_mb": peak_rss_mb(),
    }
    return summary, users


def run_model(
    base: Config, model: CentralizedConfig, dataset: Dataset, seeds: Sequence[int], tune: bool
) -> tuple[list[CentralizedRun], list[dict[str, Any]]]:
    """The runs of one model, one per seed, and the tried settings (see `tuned`)."""
    trainer = make_centralized(model, base.evaluation, dataset)
    choices: list[Choice] = grid(trainer) if tune else [()]
    make = lambda choice, seed: make_run(base, model, choice, seed)
    # All runs share the data set and the evaluation, so the baselines are evaluated once.
    baselines = functools.cache(lambda: summarise_baselines(dataset, base.evaluation))
    train = lambda runs: train_waiting(runs, trainer, dataset, baselines)
    return tuned(choices, seeds, make, train)


def main() -> None:
    base = config_from_flags()
    model = CentralizedConfig(
        model=FLAGS.model,
        width=FLAGS.width,
        batch_size=FLAGS.batch_size,
        epochs=FLAGS.epochs,
        learning_rate=FLAGS.learning_rate,
        weights=parse_weights(FLAGS.weights),
    )
    folder = required_workdir(base, "runs/vbpr")
    seeds = parse_seeds(FLAGS.seeds)
    dataset = load(base)
    note_unused(base)
    with locked(base.workdir):
        runs, tried = run_model(base, model, dataset, seeds, FLAGS.tune)
    write_text(folder / "tuning.json", json.dumps(tried, indent=2))
    label = " ".join(filter(None, [model.model, *(f"{n}={v}" for n, v in runs[0].choice)]))
    lines = compare({label: [run.directory for run in runs]}, dataset)
    title = f"{dataset.name}, protocol {base.evaluation.protocol}, seeds {FLAGS.seeds}"
    write_comparison(lines, folder / "centralized", title)
