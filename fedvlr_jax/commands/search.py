r"""Searches values of any flags by validation, with Optuna.

    fedvlr search --dataset=KU --protocol=paper --rounds=50 --trials=30 \
        --space=client_lr=log:0.1:10 --space=fusion=none,bilevel --workdir=runs/search

Needs Optuna (pip install optuna). A --space is a range of a numeric flag, log:LOW:HIGH or
uniform:LOW:HIGH, or a list of values, written as for fedvlr sweep. Each trial is a run directory
below --workdir. A trial ends early (--prune) where its best validation value is below the median
of the earlier trials at the same round, after the first quarter of --rounds.

--batch trials are drawn together, before any of them is trained. Those that differ only in step
sizes and decays train in one compiled program: one after the other on a CPU, side by side on an
accelerator. A trial has the numbers that it has alone; side by side, up to the order in which the
device sums. Pruning compares a trial with those that finished before.

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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from fedvlr_jax.commands.launching.config_flags import (
    config_from_flags,
    note_overruled,
    note_unused,
)
from fedvlr_jax.commands.launching.faults import StopRequest
from fedvlr_jax.commands.members import (
    Member,
    MemberOptions,
    Watch,
    begin_directory,
    check_member,
    checkpoints_of,
    finished_results,
    keep_best_model,
    label_of,
    train_group,
)
from fedvlr_jax.commands.members.loaded import Loaded
from fedvlr_jax.commands.one_run.finished import validation
from fedvlr_jax.commands.one_run.runs import required_workdir
from fedvlr_jax.commands.searching.space import configs_of, parse_spaces
from fedvlr_jax.commands.searching.study import (
    DIVERGED,
    FINISHED,
    PRUNED,
    REFUSED,
    Asked,
    Study,
    StudyOptions,
    Told,
)
from fedvlr_jax.commands.tables.reproduce import command_of, wrapped
from fedvlr_jax.commands.tables.tables import write_table, write_text
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.memory import check_fits
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.report.folder import Table
from fedvlr_jax.simulation import Simulation, make_simulation
from fedvlr_jax.training import RunState
from fedvlr_jax.training.ensemble import Programs

FLAGS = flags.FLAGS
HEADINGS = ("trial", "values", "validation", "rounds", "state")


class Trial(NamedTuple):
    """A trial of the study, and its run."""

    asked: Asked
    member: Member


def main() -> None:
    base = config_from_flags()
    folder = required_workdir(base, "runs/search")
    space = parse_spaces(FLAGS.space, base)
    if FLAGS.trials < 1 or FLAGS.budget < 0:
        raise InputError(
            f"--trials={FLAGS.trials}, --budget={FLAGS.budget}: give at least one trial, and a "
            "budget of 0 (no limit) or more rounds"
        )
    loaded = Loaded()
    dataset = loaded.dataset(base)
    varied = {name for dimension in space for name in dimension.name.split(":")}
    note_unused(*configs_of(space, base), varied=varied)
    note_overruled(varied, by="space")
    if not len(dataset.valid):
        raise InputError(f"{dataset.name}: no validation interaction to choose by")
    names = ("space", "sampler", "search_seed", "batch")
    own = {name: getattr(FLAGS, name) for name in names}
    options = StudyOptions(
        sampler=FLAGS.sampler,
        seed=FLAGS.search_seed,
        trials=FLAGS.trials,
        batch=FLAGS.batch,
        budget=FLAGS.budget,
        prune=FLAGS.prune,
        first_pruned_round=max(1, base.federation.rounds // 4),
    )
    study = Study(folder, space, {**base.flat, **own}, dataset.fingerprint, options)
    with StopRequest() as stop:
        search(study, base, loaded, stop)
    write_search(study.told(), base, folder)
    if FLAGS.keep_best_model:
        print(_keep_best(study))


def search(study: Study, base: Config, loaded: Loaded, stop: StopRequest) -> None:
    """Trains the trials that no other process trains, batch by batch.

    Raises:
      Interrupted: `stop` was asked to; the trials under way are saved.
    """
    # Batches whose trials differ in their rates alone share the last simulation.
    programs_of = functools.lru_cache(maxsize=1)(functools.partial(_programs, loaded))
    while batch := study.ask():
        try:
            for program, trials in _by_program(study, base, batch).items():
                try:
                    programs = programs_of(program)
                except InputError as error:
                    for asked, _ in trials:
                        _refuse(study, asked, error)
                else:
                    train_trials(study, trials, programs, loaded, stop)
        finally:
            for asked in batch:
                study.leave(asked)


def _programs(loaded: Loaded, program: Config) -> Programs:
    simulation = make_simulation(program, loaded.dataset(program))
    check_fits(simulation, saves=False)
    return Programs(simulation)


def _by_program(study: Study, base: Config, batch: Sequence[Asked]) -> dict[Config, list[Trial]]:
    """The trials of a batch by their compiled program. Reports the refused ones to the study."""
    found: dict[Config, list[Trial]] = {}
    for asked in batch:
        try:
            config = base.changed(**dict(asked.choice), workdir=str(asked.folder))
            trial = Trial(asked, Member(asked.choice, config.resolved))
            found.setdefault(trial.member.program, []).append(trial)
        except InputError as error:
            _refuse(study, asked, error)
    return found


def _refuse(study: Study, asked: Asked, error: InputError) -> None:
    print(f"{asked.folder}: {error.line}; left out")
    study.tell(asked, REFUSED, 0, None, label_of(asked.choice))


def train_trials(
    study: Study, trials: Sequence[Trial], programs: Programs, loaded: Loaded, stop: StopRequest
) -> None:
    """Trains trials of one program, or continues them, and tells the study how they ended."""
    waiting = []
    for asked, member in trials:
        print(f"{asked.folder.name}: {member.label}")
        fingerprint = loaded.dataset(member.config).fingerprint
        check_member(member.directory, member.config.flat, fingerprint, can_overwrite=False)
        if finished_results(member.directory) is None:
            waiting.append(member)
    ended: set[Path] = set()
    if waiting:
        watch = _watch(study, trials, programs.simulation, ended)
        options = MemberOptions(loaded.baselines, stop, watch, FLAGS.keep_best_model)
        train_group(waiting, programs, options)
    for asked, member in trials:
        if member.directory not in ended:
            _tell(study, asked, member)
    if FLAGS.keep_best_model and best_of(study.told()) is not None:
        _keep_best(study)


def _tell(study: Study, asked: Asked, member: Member) -> None:
    """Tells how a trial ended that was trained to its end."""
    if not (member.directory / "summary.json").exists():
        # It leaves no metrics: counted as all the rounds that it was given.
        rounds = member.config.federation.rounds
        study.tell(asked, DIVERGED, rounds, None, member.label)
        return
    summary = RunDirectory.open(member.directory).read_summary()
    study.tell(asked, FINISHED, summary["rounds_run"], validation(summary), member.label)


def _keep_best(study: Study) -> str:
    """Keeps the checkpoint of the best trial alone; says where it is."""
    told = study.told()
    folders = [study.folder / trial.folder for trial in told]
    best = best_of(told)
    assert best is not None
    return keep_best_model([study.folder / best.folder], folders)


def _watch(
    study: Study, trials: Sequence[Trial], simulation: Simulation, ended: set[Path]
) -> Watch:
    """Reports each evaluation of the trials, and ends those that are behind.

    Args:
      ended: gets the folders of the trials that ended; the study is told at once.
    """
    asked_of = {trial.member.directory: trial.asked for trial in trials}
    reported: set[tuple[Path, int]] = set()

    def is_behind(member: Member, run: RunState) -> bool:
        asked = asked_of[member.directory]
        for entry in run.evaluations:
            value, place = simulation.selection.value(entry["valid"]), entry["round"]
            if (
                place > asked.reported
                and (member.directory, place) not in reported
                and value is not None
            ):
                reported.add((member.directory, place))
                asked.trial.report(value, place)
        # An earlier process has decided up to its newest report.
        decides = bool(run.evaluations) and run.evaluations[-1]["round"] >= asked.reported
        return decides and not run.stopped and asked.trial.should_prune()

    def watch(members: Sequence[Member], runs: Sequence[RunState], /) -> list[int]:
        behind = [
            number
            for number, (member, run) in enumerate(zip(members, runs, strict=True))
            if member.directory not in ended and is_behind(member, run)
        ]
        for number in behind:
            member, run = members[number], runs[number]
            rounds = run.evaluations[-1]["round"]
            begin_directory(member, run, simulation.dataset)
            checkpoints_of(member.directory).clear()
            print(f"{member.directory.name}: pruned after round {rounds}")
            study.tell(asked_of[member.directory], PRUNED, rounds, None, member.label)
            ended.add(member.directory)
        return behind

    return watch


def best_of(told: Sequence[Told]) -> Told | None:
    """The finished trial with the highest validation value, the earliest of equal ones."""
    finished = [trial for trial in told if trial.valid is not None]
    return max(finished, key=lambda trial: trial.valid or 0.0, default=None)


def tie_of(told: Sequence[Told], folder: Path) -> str:
    """A sentence if several trials finished and all have the same value, else ""."""
    finished = [trial for trial in told if trial.valid is not None]
    if len(finished) < 2 or len({trial.valid for trial in finished}) > 1:
        return ""
    runs = [RunDirectory.open(folder / trial.folder) for trial in finished]
    selected = {run.read_summary()["selected_round"] for run in runs}
    same = f" (all select round {selected.pop()})" if len(selected) == 1 else ""
    return f" All {len(finished)} finished trials have the same value{same}; * is the first."


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
        f"trials, {spent:,} rounds.{tie_of(told, folder)}"
    )
    title = f"Search by {FLAGS.sampler}, protocol {base.evaluation.protocol}"
    write_table(Table(title, HEADINGS, rows, caption), lines, folder / "search")
    command = wrapped(_command(best, folder))
    table = (folder / "search.md").read_text(encoding="utf-8")
    write_text(folder / "search.md", f"{table}\nThe best trial by itself:\n\n```\n{command}\n```\n")
    record = {
        "sampler": FLAGS.sampler,
        "search_seed": FLAGS.search_seed,
        "space": FLAGS.space,
        "batch": FLAGS.batch,
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
