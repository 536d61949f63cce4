"""Searches values of any flags by validation, with Optuna.

    fedvlr search --dataset=KU --protocol=paper --rounds=50 --trials=30 \\
        --space=client_lr=log:0.1:10 --space=fusion=none,bilevel --workdir=runs/search

Needs Optuna (pip install optuna). A --space is a range of a numeric flag, log:LOW:HIGH or
uniform:LOW:HIGH, or a list of values, written as for fedvlr sweep. Each trial is a run directory
below --workdir. A trial ends early (--prune) where its best validation value is below the median
of the earlier trials at the same round, after the first quarter of --rounds.

The same command continues a search that was stopped. Several processes may be given the same
--workdir: they share the trials. --trials and --budget (rounds of training, over all trials) bound
the search, and search.json records what was spent. search.json, search.csv and search.md hold a
line a trial. The command of the best trial is printed and written to search.md: its flags make the
same run again. Test numbers are in the summary of each trial and choose nothing. index.html shows
all trials. --keep_best_model leaves the checkpoint of the best trial, for fedvlr evaluate.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from fedvlr_jax.commands.shared.comparison import write_table, write_text
from fedvlr_jax.commands.shared.faults import Interrupted, StopRequest
from fedvlr_jax.commands.shared.finished import validation
from fedvlr_jax.commands.shared.launch import config_from_flags, note_unused
from fedvlr_jax.commands.shared.members import (
    Baselines,
    Member,
    begin_directory,
    check_member,
    finished_results,
    keep_best_model,
    label_of,
    saved_round,
    train_together,
)
from fedvlr_jax.commands.shared.reproduce import command_of, wrapped
from fedvlr_jax.commands.shared.runs import load, required_workdir
from fedvlr_jax.commands.shared.space import configs_of, parse_spaces
from fedvlr_jax.commands.shared.study import (
    DIVERGED,
    FINISHED,
    PRUNED,
    REFUSED,
    Asked,
    Study,
    Told,
)
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.memory import check_fits
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.simulation import Simulation, make_simulation
from fedvlr_jax.summary import BaselineSummary, summarise_baselines
from fedvlr_jax.training import RunState

FLAGS = flags.FLAGS
HEADINGS = ("trial", "values", "validation", "rounds", "state")


class Pruned(Exception):
    """The trial is behind the others; `run` is as far as it came."""

    def __init__(self, run: RunState):
        self.run = run


def main() -> None:
    base = config_from_flags()
    folder = required_workdir(base, "runs/search")
    space = parse_spaces(FLAGS.space, base)
    if FLAGS.trials < 1 or FLAGS.budget < 0:
        raise InputError(
            f"--trials={FLAGS.trials}, --budget={FLAGS.budget}: give at least one trial, and a "
            "budget of 0 (no limit) or more rounds"
        )
    dataset = load(base)
    varied = {name for dimension in space for name in dimension.name.split(":")}
    note_unused(*configs_of(space, base), varied=varied)
    if not len(dataset.valid):
        raise InputError(f"{dataset.name}: no validation interaction to choose by")
    own = {"space": FLAGS.space, "sampler": FLAGS.sampler, "search_seed": FLAGS.search_seed}
    study = Study(
        folder,
        space,
        {**base.flat, **own},
        dataset.fingerprint,
        sampler=FLAGS.sampler,
        seed=FLAGS.search_seed,
        trials=FLAGS.trials,
        budget=FLAGS.budget,
        prune=FLAGS.prune,
        first_pruned_round=max(1, base.federation.rounds // 4),
    )
    with StopRequest() as stop:
        search(study, base, dataset, stop)
    write_search(study.told(), base, folder)
    if FLAGS.keep_best_model:
        print(_keep_best(study))


def search(study: Study, base: Config, dataset: Dataset, stop: StopRequest) -> None:
    """Trains the trials that no other process trains, one after the other.

    Raises:
      Interrupted: `stop` was asked to; the trial under way is saved.
    """
    # Trials that differ in their rates alone share the last simulation.
    simulation_of = functools.lru_cache(maxsize=1)(lambda program: _simulation(program, dataset))
    found: dict[Any, BaselineSummary] = {}

    def baselines(simulation: Simulation) -> Baselines:
        def evaluated(_: Any, evaluation: Any) -> BaselineSummary:
            # Hostile clients are part of the data that baselines see.
            key = simulation.dataset.fingerprint, evaluation
            if key not in found:
                found[key] = summarise_baselines(simulation.dataset, evaluation)
            return found[key]

        return evaluated

    while (asked := study.ask()) is not None:
        try:
            config = base.changed(**dict(asked.choice), workdir=str(asked.folder))
            member = Member(asked.choice, config.resolved)
            simulation = simulation_of(member.program)
        except InputError as error:
            print(f"{asked.folder}: {error}; left out")
            study.tell(asked, REFUSED, 0, None, label_of(asked.choice))
            continue
        try:
            train_trial(study, asked, member, simulation, baselines(simulation), stop)
        except Interrupted:
            study.leave(asked)
            raise


def _simulation(program: Config, dataset: Dataset) -> Simulation:
    simulation = make_simulation(program, dataset)
    check_fits(simulation, saves=False)
    return simulation


def train_trial(
    study: Study,
    asked: Asked,
    member: Member,
    simulation: Simulation,
    baselines: Baselines,
    stop: StopRequest,
) -> None:
    """Trains one trial, or continues it, and tells the study how it ended."""
    print(f"{asked.folder.name}: {member.label}")
    fingerprint = simulation.dataset.fingerprint
    check_member(member.directory, member.config.flat, fingerprint)
    if finished_results(member.directory) is None:
        watch = _watch(asked, simulation)
        begun = saved_round(member)
        try:
            train_together(
                [member], simulation, 1, begun, baselines, stop, watch, keep=FLAGS.keep_best_model
            )
        except Pruned as pruned:
            rounds = pruned.run.evaluations[-1]["round"]
            begin_directory(member, pruned.run, simulation.dataset)
            print(f"{asked.folder.name}: pruned after round {rounds}")
            study.tell(asked, PRUNED, rounds, None, member.label)
            return
    if not (member.directory / "summary.json").exists():
        # It leaves no metrics: counted as all the rounds that it was given.
        rounds = member.config.federation.rounds
        study.tell(asked, DIVERGED, rounds, None, member.label)
        return
    summary = RunDirectory.open(member.directory).read_summary()
    study.tell(asked, FINISHED, summary["rounds_run"], validation(summary), member.label)
    if FLAGS.keep_best_model:
        _keep_best(study)


def _keep_best(study: Study) -> str:
    """Keeps the checkpoint of the best trial alone; says where it is."""
    told = study.told()
    folders = [study.folder / trial.folder for trial in told]
    best = best_of(told)
    assert best is not None
    return keep_best_model([study.folder / best.folder], folders)


def _watch(asked: Asked, simulation: Simulation) -> Callable[[Sequence[RunState]], None]:
    """Reports each evaluation of a trial. It raises Pruned where the trial is behind."""
    reported: set[int] = set()

    def watch(runs: Sequence[RunState]) -> None:
        (run,) = runs
        for entry in run.evaluations:
            value = simulation.selection.value(entry["valid"])
            if entry["round"] not in reported and value is not None:
                reported.add(entry["round"])
                asked.trial.report(value, entry["round"])
        if not run.stopped and run.evaluations and asked.trial.should_prune():
            raise Pruned(run)

    return watch


def best_of(told: Sequence[Told]) -> Told | None:
    """The finished trial with the highest validation value, the earliest of equal ones."""
    finished = [trial for trial in told if trial.valid is not None]
    return max(finished, key=lambda trial: trial.valid or 0.0, default=None)


def write_search(told: Sequence[Told], base: Config, folder: Path) -> None:
    """Prints and writes the table of the trials, and the command of the best one.

    Raises:
      InputError: no trial finished.
    """
    best = best_of(told)
    if best is None:
        raise InputError(f"--workdir={folder}: no trial finished; narrow the --space")
    lines = [trial._asdict() for trial in told]
    rows = [
        [
            trial.folder + (" *" if trial is best else ""),
            trial.choice,
            "-" if trial.valid is None else f"{trial.valid:.2f}",
            str(trial.rounds),
            trial.state,
        ]
        for trial in told
    ]
    spent = sum(trial.rounds for trial in told)
    caption = (
        f"Validation {base.evaluation.selection.label}, percent; * the best. Budget: {len(told)} "
        f"trials, {spent:,} rounds."
    )
    title = f"Search by {FLAGS.sampler}, protocol {base.evaluation.protocol}"
    write_table(HEADINGS, rows, lines, folder / "search", title, caption)
    command = wrapped(_command(best, folder))
    table = (folder / "search.md").read_text(encoding="utf-8")
    write_text(folder / "search.md", f"{table}\nThe best trial by itself:\n\n```\n{command}\n```\n")
    record = {
        "sampler": FLAGS.sampler,
        "search_seed": FLAGS.search_seed,
        "space": FLAGS.space,
        "budget": {"trials": len(told), "rounds": spent},
        "best": best._asdict(),
        "command": _command(best, folder),
        "trials": lines,
    }
    write_text(folder / "search.json", json.dumps(record, indent=2))
    print(f"best: {best.folder}, {best.choice}; by itself:\n{command}")


def _command(best: Told, folder: Path) -> str:
    saved = RunDirectory.open(folder / best.folder).read_config()["flags"]
    return command_of(Config.from_flat(**saved), workdir=f"{folder}-best")
