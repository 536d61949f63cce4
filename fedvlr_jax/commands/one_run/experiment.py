"""One run in its directory: begun or resumed, trained, saved and summarised."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.launching.faults import Interrupted
from fedvlr_jax.commands.launching.processes import is_first, only_first, wait_for_all
from fedvlr_jax.commands.one_run.finished import (
    Results,
    complete_results,
    read_results,
    write_results,
)
from fedvlr_jax.commands.one_run.introduction import introduce
from fedvlr_jax.commands.one_run.privacy_accounts import Accounts
from fedvlr_jax.commands.one_run.resuming import open_run, resume, stopped_at
from fedvlr_jax.commands.one_run.runs import describe, titles_of
from fedvlr_jax.commands.one_run.saving import Saver
from fedvlr_jax.errors import InputError, NonFiniteError
from fedvlr_jax.report import Progress, RunDirectory, locked
from fedvlr_jax.simulation import Simulation
from fedvlr_jax.training import RunState, Timing, new_run, train
from fedvlr_jax.training.recommended import recommended_titles
from fedvlr_jax.training.summary import summarise_baselines, summarise_run
from fedvlr_jax.training.tracking import Tracker, evaluation_callback


class Experiment(NamedTuple):
    """The parts that every step of a run uses.

    Attributes:
      directory: the locked run directory. checkpoints: those in it.
      progress: shows the evaluations, and prints the notes.
      leave: called before every part of a block of rounds. When it returns True, the run is saved
        and training stops.
      tracker: gets every evaluation of the trained rounds; None for none.
    """

    simulation: Simulation
    directory: RunDirectory
    checkpoints: Checkpoints
    progress: Progress
    leave: Callable[[], bool]
    tracker: Tracker | None


def run_experiment(
    simulation: Simulation,
    progress: Progress,
    leave: Callable[[], bool] = lambda: False,
    tracker: Tracker | None = None,
) -> tuple[dict[str, Any], RunDirectory]:
    """Begins or resumes the run, and writes all results into the run directory.

    Args:
      leave, tracker: as in `Experiment`.

    Raises:
      InputError: the directory cannot be used, or holds another run; nothing was changed.
      NonFiniteError: training met a number that is not finite. The message names the newest
        checkpoint, which was saved before it.
      Interrupted: `leave` returned True; the run is saved.
    """
    config, path = simulation.config, Path(simulation.config.workdir)
    if config.run.resume == "must" and not (path / "config.json").exists():
        raise InputError(f"--resume=must: --workdir={path} holds no run")
    with only_first(lambda: locked(path)):
        directory, checkpoints, held = open_run(simulation)
        experiment = Experiment(simulation, directory, checkpoints, progress, leave, tracker)
        results = read_results(directory, progress.note) if held else None
        stopped = "" if results is None else stopped_at(config, results)
        introduce(simulation, progress)
        run = None
        if held and not stopped:
            run = resume(simulation, directory, checkpoints, progress.note)
        # No process writes before every process has read the directory.
        wait_for_all("opened")
        if results is not None and stopped:
            summary = keep_results(experiment, results, stopped)
        else:
            summary = train_and_summarise(experiment, run)
    return summary, directory


def keep_results(experiment: Experiment, results: Results, stopped: str) -> dict[str, Any]:
    """Returns the summary of a finished run, and adds the results that the flags ask for.

    Args:
      stopped: why the run needs no more rounds, see `stopped_at`.
    """
    config, dataset = experiment.simulation.config, experiment.simulation.dataset
    experiment.progress.note(f"already finished after round {results.summary['rounds_run']}")
    if not is_first():
        return results.summary
    return complete_results(
        experiment.directory,
        results,
        config.flat,
        functools.partial(describe, config, dataset),
        functools.partial(summarise_baselines, dataset, config.evaluation),
        stopped=stopped,
    )


def train_and_summarise(experiment: Experiment, run: RunState | None) -> dict[str, Any]:
    """Begins a run (None) or continues it, tests its best state, and writes the results.

    Raises:
      Interrupted: `leave` returned True; the run is saved.
    """
    simulation, directory, checkpoints, progress, _, tracker = experiment
    config = simulation.config
    measured = {}
    if run is not None and run.stopped:
        progress.note(f"already trained to round {run.round}: writes its results again")
        measured = _measured(directory, run.round)
    elif run is not None:
        progress.note(f"resumes after round {run.round}")
    # Reads the ledger first: a damaged ledger is refused before anything is written.
    accounts = Accounts(simulation, directory, checkpoints)
    run = new_run(simulation) if run is None else run
    if tracker is not None:
        tracker.begin(config.flat, run.round)
    if is_first():
        directory.remove_results()
        directory.write_config(describe(config, simulation.dataset))
    # In the ledger before any file has a number that follows from the exchanges.
    accounts.begin()
    if is_first():
        directory.write_metrics(run.evaluations)
    accounts.publish(progress.note)
    run, timing = train_and_save(experiment, run, accounts)
    accounts.publish(lambda line: None)
    if not run.stopped:
        raise Interrupted(
            f"stopped after round {run.round} of {config.federation.rounds}; the same command "
            "resumes the run"
        )
    if config.evaluation.baselines and config.evaluation.tune_baselines:
        # They can take longer than the training.
        progress.note("now: the test part, and tuned baselines; --tune_baselines=false is faster")
    summary, users = summarise_run(simulation, run, timing)
    summary |= measured
    titles = titles_of(config, simulation.dataset) if jax.process_count() == 1 else None
    if titles is not None:
        weights = users.get("router_weights")
        summary["recommended"] = recommended_titles(simulation, run.best_state, titles, weights)
    if stated := accounts.stated:
        summary["privacy"] = stated
    if is_first():
        write_results(directory, summary, users)
    if tracker is not None:
        tracker.end(summary)
    return summary


def _measured(directory: RunDirectory, rounds_run: int) -> dict[str, Any]:
    """Time and memory of the training, if the directory has a summary of these rounds."""
    try:
        summary = directory.read_summary()
    except InputError:
        return {}
    if summary.get("rounds_run") != rounds_run:
        return {}
    return {name: summary[name] for name in ("timing", "peak_rss_mb") if name in summary}


def train_and_save(
    experiment: Experiment, run: RunState, accounts: Accounts
) -> tuple[RunState, Timing]:
    """Trains to the end, or until `leave`. The returned run is saved."""
    simulation, directory, checkpoints, progress, leave, tracker = experiment
    saver = Saver(simulation, checkpoints, run)
    tell = None if tracker is None else evaluation_callback(tracker, simulation)
    for entry in run.evaluations:
        progress.remember(entry["round"], entry["valid"])

    def on_evaluation(run: RunState, rounds_per_s: float) -> None:
        entry = run.evaluations[-1]
        if is_first():
            directory.append_metrics(entry)
        if tell is not None:
            tell(run, rounds_per_s)
        progress.update(entry["round"], entry["loss"], entry["valid"], run.best_round, rounds_per_s)

    try:
        run, timing = train(
            simulation, run, on_evaluation, saver.after_rounds, leave, accounts.before_rounds
        )
    except NonFiniteError as error:
        checkpoints.wait()
        kept = checkpoints.newest()
        held = "no checkpoint yet" if kept is None else f"the newest checkpoint has round {kept}"
        raise NonFiniteError(f"{error.line}; {held}", error.state) from error
    if run.stopped == "patience":
        patience, label = simulation.config.evaluation.patience, simulation.selection.label
        progress.note(f"stopped: no better validation {label} for {patience} evaluations")
    saver.finish(run)
    return run, timing
