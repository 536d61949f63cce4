"""Trains one federation, evaluates it and writes a report.

    fedvlr train --dataset=KU --protocol=paper --workdir=runs/ku

The command writes config.json, metrics.jsonl (one line per evaluation), checkpoints, summary.json,
users.npz and report.html into --workdir. The same command resumes an interrupted run.

On SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 or SIGXCPU the command saves the run and
exits, within a second or one round. A second SIGINT, SIGTERM or SIGQUIT ends it at once.

Exit status: 0 done, 2 bad input or unwritable directory, 3 a number was not finite, 4 out of
memory, 74 done but output was lost, 75 stopped by a signal and saved, 128 + n ended at once by
signal n.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import flags

from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.commands.shared.disk import describe_disk
from fedvlr_jax.commands.shared.faults import Interrupted, StopRequest, memory_explained
from fedvlr_jax.commands.shared.finished import (
    Results,
    complete_results,
    read_results,
    write_results,
)
from fedvlr_jax.commands.shared.launch import config_from_flags, note_unused
from fedvlr_jax.commands.shared.private import Accounts, budget_note, with_held_noise
from fedvlr_jax.commands.shared.processes import (
    any_process,
    is_first,
    join_processes,
    only_first,
    wait_for_all,
)
from fedvlr_jax.commands.shared.runs import check_same, describe, load, titles_of
from fedvlr_jax.commands.shared.saving import Saver, load_run
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError, NonFiniteError
from fedvlr_jax.federated.exchanges import exchanges_of
from fedvlr_jax.fusion import describe_views
from fedvlr_jax.memory import check_fits, describe_plan
from fedvlr_jax.privacy.statement import lines as statement_lines
from fedvlr_jax.report import Progress, RunDirectory, locked, print_summary
from fedvlr_jax.simulation import Simulation, make_simulation
from fedvlr_jax.training import RunState, Timing, new_run, position, taken_up, train
from fedvlr_jax.training.recommended import recommended_titles
from fedvlr_jax.training.summary import summarise_baselines, summarise_run
from fedvlr_jax.training.tracking import Lenient, TensorBoard, Tracker, evaluation_callback

FLAGS = flags.FLAGS


def resume(
    simulation: Simulation,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    note: Callable[[str], None],
) -> RunState | None:
    """Loads the run from the newest whole checkpoint. None: there is none, so the run begins.

    Raises:
      InputError: the checkpoint has other flags or data, or more rounds than the flags allow; or
        no checkpoint is whole, and the run has finished or --resume=must.
    """
    config = simulation.config
    newest = checkpoints.newest(note)
    if newest is None:
        if config.run.resume == "must":
            raise InputError(f"--resume=must: {checkpoints.directory} holds no whole checkpoint")
        if directory.has_results():
            raise InputError(
                f"--workdir={config.workdir}: its run has finished and has no whole checkpoint, so "
                "it cannot continue; give another directory, or --overwrite to train again"
            )
        found = "is whole" if checkpoints.rounds() else "was saved"
        note(f"no checkpoint {found}: the run starts from the beginning")
        return None
    meta = checkpoints.read_meta(newest)
    now = config.flat, simulation.dataset.fingerprint
    check_same(f"--workdir={config.workdir}", (meta["flags"], meta["fingerprint"]), now)
    return taken_up(config, load_run(simulation, checkpoints, newest))


def main() -> None:
    config = config_from_flags()
    join_processes()
    if jax.process_count() > 1 and config.run.store != "device":
        raise InputError(
            f"--store={config.run.store}: several processes need --store=device; give that"
        )
    dataset, given = load(config), config
    config = with_held_noise(config)
    simulation = make_simulation(config, dataset)
    check_fits(simulation)
    if is_first():
        note_unused(given)
    if limited := budget_note(config, simulation):
        print(limited)
    with (
        Progress(config.federation.rounds, selection=simulation.selection) as progress,
        StopRequest() as stop,
        memory_explained(simulation),
    ):
        summary, directory = run_experiment(
            simulation,
            progress,
            leave=lambda: any_process(stop.asked),
            tracker=make_tracker(simulation, progress.note),
        )
    print_summary(summary)
    if limited:
        print(limited)
    if "privacy" in summary:
        print("\n".join(statement_lines(summary["privacy"])))
    path = directory.path
    print(f"report: {path / 'report.html'}")
    print(f"next: fedvlr evaluate --workdir={path} --export={path / 'recommendations.csv'}")


def make_tracker(simulation: Simulation, note: Callable[[str], None]) -> Tracker | None:
    """The tracker of --tensorboard, in the first process; else None.

    Args:
      note: called with one line if the folder cannot be written; the run goes on.
    """
    if not FLAGS.tensorboard or not is_first():
        return None
    tracker = TensorBoard(FLAGS.tensorboard, simulation.model.fusion.names)
    return Lenient(tracker, f"--tensorboard={FLAGS.tensorboard}", note)


def run_experiment(
    simulation: Simulation,
    progress: Progress,
    leave: Callable[[], bool] = lambda: False,
    tracker: Tracker | None = None,
) -> tuple[dict[str, Any], RunDirectory]:
    """Begins or resumes the run, and writes all results into the run directory.

    Args:
      leave: called before every part of a block of rounds. When it returns True, the run is saved
        and training stops.
      tracker: gets every evaluation of the trained rounds.

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
        results = read_results(directory, progress.note) if held else None
        stopped = "" if results is None else stopped_at(config, results)
        introduce(simulation, progress)
        run = None
        if held and not stopped:
            run = resume(simulation, directory, checkpoints, progress.note)
        # No process writes before every process has read the directory.
        wait_for_all("opened")
        if results is not None and stopped:
            summary = keep_results(simulation, directory, results, stopped, progress)
        else:
            summary = train_and_summarise(
                simulation, directory, checkpoints, run, progress, leave, tracker
            )
    return summary, directory


def open_run(simulation: Simulation) -> tuple[RunDirectory, Checkpoints, bool]:
    """The run directory, its checkpoints, and whether they hold a run to resume.

    Raises:
      InputError: the directory holds a run with other flags or data, or checkpoints without a
        config.json.
    """
    config = simulation.config
    path = Path(config.workdir)
    keep, keep_best = config.run.keep_checkpoints, config.run.keep_best
    checkpoints = Checkpoints(path / "checkpoints", keep=keep, keep_best=keep_best)
    known = (path / "config.json").exists()
    if checkpoints.rounds() and not (known or config.run.overwrite):
        raise InputError(
            f"--workdir={path}: holds checkpoints but no config.json, so their run is unknown; "
            "give another directory, or --overwrite to remove them"
        )
    held = known and not config.run.overwrite
    if not held or config.run.resume == "never":
        directory = RunDirectory.create(path, overwrite=config.run.overwrite)
        if is_first():
            checkpoints.clear()
        return directory, checkpoints, False
    directory = RunDirectory.open(path)
    saved = directory.read_config()
    fingerprint = saved.get("dataset", {}).get("fingerprint")
    now = config.flat, simulation.dataset.fingerprint
    check_same(f"--workdir={path}", (saved["flags"], fingerprint), now)
    return directory, checkpoints, True


def stopped_at(config: Config, results: Results) -> str:
    """Why the finished run needs no more rounds under the given flags; "" if it needs more.

    Raises:
      InputError: the run has more rounds than the flags allow.
    """
    metrics, rounds_run = results.metrics, results.summary.get("rounds_run")
    if not metrics or metrics[-1]["round"] != rounds_run:
        return ""  # The files are not of the same run: only a checkpoint can tell.
    return position(config, metrics, rounds_run)


def introduce(simulation: Simulation, progress: Progress) -> None:
    """Prints the data set, the views, the plan, the bytes written and the initialization."""
    config, dataset = simulation.config, simulation.dataset
    progress.note(
        f"{dataset.name}: {dataset.num_users} clients, {dataset.num_items} items, "
        f"{len(dataset.train)} train interactions"
    )
    initial = simulation.setup.initialization
    # --init=ease puts the features into the ID table, so they need no view of their own.
    in_views = () if initial is not None and initial.content else dataset.features
    for line in describe_views(simulation.model.fusion, in_views):
        progress.note(line)
    progress.note(describe_plan(simulation))
    progress.note(describe_disk(simulation))
    if not len(dataset.valid):
        progress.note("no validation part: trains all --rounds and tests the last state")
    if initial is not None:
        for exchange in exchanges_of(config, simulation.model, dataset, initial):
            progress.note(exchange.line)


def keep_results(
    simulation: Simulation,
    directory: RunDirectory,
    results: Results,
    stopped: str,
    progress: Progress,
) -> dict[str, Any]:
    """Returns the summary of a finished run, and adds the results that the flags ask for."""
    config, dataset = simulation.config, simulation.dataset
    progress.note(f"already finished after round {results.summary['rounds_run']}")
    if not is_first():
        return results.summary
    return complete_results(
        directory,
        results,
        config.flat,
        functools.partial(describe, config, dataset),
        functools.partial(summarise_baselines, dataset, config.evaluation),
        stopped=stopped,
    )


def train_and_summarise(
    simulation: Simulation,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    run: RunState | None,
    progress: Progress,
    leave: Callable[[], bool],
    tracker: Tracker | None,
) -> dict[str, Any]:
    """Begins a run (None) or continues it, tests its best state, and writes the results.

    Raises:
      Interrupted: `leave` returned True; the run is saved.
    """
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
        directory.write_metrics(run.evaluations)
    accounts.begin()
    accounts.publish(progress.note)
    run, timing = train_and_save(
        simulation, directory, checkpoints, run, progress, leave, accounts, tracker
    )
    accounts.publish(lambda line: None)
    if not run.stopped:
        raise Interrupted(
            f"stopped after round {run.round} of {config.federation.rounds}; the same command "
            "resumes the run"
        )
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
    simulation: Simulation,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    run: RunState,
    progress: Progress,
    leave: Callable[[], bool],
    accounts: Accounts,
    tracker: Tracker | None,
) -> tuple[RunState, Timing]:
    """Trains to the end, or until `leave`. The returned run is saved."""
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
        raise NonFiniteError(f"{error}; {held}", error.state) from error
    if run.stopped == "patience":
        patience, label = simulation.config.evaluation.patience, simulation.selection.label
        progress.note(f"stopped: no better validation {label} for {patience} evaluations")
    saver.finish(run)
    return run, timing
