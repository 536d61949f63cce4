"""Trains one federation and says how good it is.

    python -m experiments.train --dataset=KU --protocol=paper --workdir=runs/ku

Writes config.json, metrics.jsonl (a line an evaluation), checkpoints, summary.json,
users.npz and report.html into --workdir, and goes on where an interrupted run stopped.
SIGTERM and SIGINT (Ctrl-C) save and leave within a second, or a round where that is longer; a
second one leaves at once. Exit status: 0 done, 2 bad input or a directory that cannot be written,
3 a number was not finite, 4 out of memory, 75 stopped by a signal and saved.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.faults import Interrupted, StopRequest, memory_explained
from experiments.launch import config_from_flags, define_config_flags, launch
from experiments.processes import (
    any_process,
    define_process_flags,
    is_first,
    join_processes,
    only_first,
    wait_for_all,
)
from experiments.runs import check_same, describe, load
from experiments.saving import Saver
from fedvlr_jax.checkpointing import Checkpoints
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.start import describe_start
from fedvlr_jax.fusion import describe_views
from fedvlr_jax.memory import check_fits, describe_plan
from fedvlr_jax.report import Progress, RunDirectory, locked, print_summary, render_report
from fedvlr_jax.simulation import NonFiniteError, Simulation, State, make_simulation
from fedvlr_jax.summary import summarise_run
from fedvlr_jax.training import (
    RunState,
    Timing,
    start,
    train,
    why_stopped,
)
from fedvlr_jax.types import METRIC_TYPES, RoundMetrics


def _round_metrics(lists: dict[str, list]) -> RoundMetrics:
    """The "since" of a checkpoint's meta, to the bit."""
    arrays: Any = {name: np.array(x, METRIC_TYPES[name]) for name, x in lists.items()}
    return RoundMetrics(**arrays)


def resume(
    simulation: Simulation, checkpoints: Checkpoints, note: Callable[[str], None]
) -> RunState | None:
    """The run as the newest whole checkpoint has it; None where there is none.

    Raises:
      InputError: it is of other flags or data; or there is none, and --resume=must.
    """
    config = simulation.config
    newest = checkpoints.newest(note)
    if newest is None:
        if config.run.resume == "must":
            raise InputError(f"--resume=must: {checkpoints.directory} holds no whole checkpoint")
        if checkpoints.rounds():
            note("no checkpoint is whole: starting anew")
        return None
    meta = checkpoints.read_meta(newest)
    now = config.flat, simulation.dataset.fingerprint
    check_same(f"--workdir={config.workdir}", (meta["flags"], meta["fingerprint"]), now)

    def load(part: str) -> State:
        # One at a time: to go on is to take no more memory than the run took before.
        like = simulation.packed_shapes(meta["leaves"], part)
        return simulation.unpack(checkpoints.load(newest, {part: like})[part])

    return RunState(
        state=load("state"),
        best_state=load("best"),
        best_round=meta["best_round"],
        evaluations=tuple(meta["evaluations"]),
        since=meta["since"] and _round_metrics(meta["since"]),
        stopped=why_stopped(config, meta["evaluations"], meta["best_round"]),
    )


def main() -> None:
    config = config_from_flags()
    join_processes()
    if jax.process_count() > 1 and config.run.store != "device":
        raise InputError(f"--store={config.run.store}: several processes keep rows on the device")
    dataset = load(config)
    simulation = make_simulation(config, dataset)
    check_fits(simulation)
    with (
        Progress(config.federation.rounds) as progress,
        StopRequest() as stop,
        memory_explained(simulation),
    ):
        summary, directory = run_experiment(
            simulation, progress, leave=lambda: any_process(stop.asked)
        )
    print_summary(summary)
    print(f"report: {directory.path / 'report.html'}")


def run_experiment(
    simulation: Simulation, progress: Progress, leave: Callable[[], bool] = lambda: False
) -> tuple[dict[str, Any], RunDirectory]:
    """Trains, or goes on, and writes everything into the run directory.

    Args:
      leave: asked before every piece of a block of rounds; once it says so, the run is saved.

    Raises:
      InputError: the directory cannot be used, or holds something else; nothing was changed.
      NonFiniteError: training met a number that is not finite. The message names the newest
        checkpoint, which is of before.
      Interrupted: `leave` said so; the run is saved.
    """
    config, path = simulation.config, Path(simulation.config.workdir)
    if config.run.resume == "must" and not (path / "config.json").exists():
        raise InputError(f"--resume=must: --workdir={path} holds no run")
    with only_first(lambda: locked(path)):
        directory, checkpoints, run = open_run(simulation, progress)
        wait_for_all("opened")
        if run is not None and run.stopped and (path / "summary.json").exists():
            progress.note(f"already finished after round {run.round}")
            return directory.read_summary(), directory
        run = start(simulation) if run is None else run
        if is_first():
            directory.write_config(describe(config, simulation.dataset))
            directory.write_metrics(run.evaluations)
        run, timing = train_and_save(simulation, directory, checkpoints, run, progress, leave)
        if not run.stopped:
            raise Interrupted(
                f"left after round {run.round} of {config.federation.rounds}; "
                "the same command goes on"
            )
        summary, users = summarise_run(simulation, run, timing)
        if is_first():
            directory.write_users(users)
            config_file, metrics = directory.read_config(), directory.read_metrics()
            directory.write_report(render_report(config_file, summary, metrics, users))
            directory.write_summary(summary)
    return summary, directory


def open_run(
    simulation: Simulation, progress: Progress
) -> tuple[RunDirectory, Checkpoints, RunState | None]:
    """The run directory, its checkpoints, and the run that they hold, if there is one."""
    config, dataset = simulation.config, simulation.dataset
    path = Path(config.workdir)
    keep, keep_best = config.run.keep_checkpoints, config.run.keep_best
    checkpoints = Checkpoints(path / "checkpoints", keep=keep, keep_best=keep_best)
    run = None
    held = (path / "config.json").exists() and not config.run.overwrite
    if held and config.run.resume != "never":
        directory = RunDirectory.open(path)
        saved = directory.read_config()
        fingerprint = saved.get("dataset", {}).get("fingerprint")
        now = config.flat, dataset.fingerprint
        check_same(f"--workdir={path}", (saved["flags"], fingerprint), now)
        run = resume(simulation, checkpoints, progress.note)
    else:
        directory = RunDirectory.create(path, overwrite=config.run.overwrite)
        if is_first():
            checkpoints.clear()
    progress.note(
        f"{dataset.name}: {dataset.num_users} clients, {dataset.num_items} items, "
        f"{len(dataset.train)} train interactions"
    )
    for line in describe_views(simulation.model.fusion, dataset.features):
        progress.note(line)
    progress.note(describe_plan(simulation))
    if not len(dataset.valid):
        progress.note("no validation part: all --rounds are run, and the last state is tested")
    if simulation.start is not None:
        for line in describe_start(config, simulation.model, dataset.num_users):
            progress.note(line)
    if run is not None and not run.stopped:
        progress.note(f"going on after round {run.round}")
    return directory, checkpoints, run


def train_and_save(
    simulation: Simulation,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    run: RunState,
    progress: Progress,
    leave: Callable[[], bool],
) -> tuple[RunState, Timing]:
    """Trains to the end, or until `leave`; what is returned is saved."""
    saver = Saver(simulation, checkpoints, run)
    for entry in run.evaluations:
        progress.remember(entry["round"], entry["valid"])

    def on_evaluation(run: RunState, rounds_per_s: float) -> None:
        entry = run.evaluations[-1]
        if is_first():
            directory.append_metrics(entry)
        progress.update(entry["round"], entry["loss"], entry["valid"], run.best_round, rounds_per_s)

    try:
        run, timing = train(simulation, run, on_evaluation, saver.after_rounds, leave)
    except NonFiniteError as error:
        checkpoints.wait()
        kept = checkpoints.newest()
        held = "no checkpoint yet" if kept is None else f"the newest checkpoint is of round {kept}"
        raise NonFiniteError(f"{error}; {held}", error.state) from error
    if run.stopped == "patience":
        patience = simulation.config.evaluation.patience
        progress.note(f"stopped: no better validation NDCG@50 for {patience} evaluations")
    saver.finish(run)
    return run, timing


if __name__ == "__main__":
    define_config_flags()
    define_process_flags()
    launch(main, __doc__)
