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

from collections.abc import Callable

import jax
from absl import flags

from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_unused
from fedvlr_jax.commands.launching.faults import StopRequest, memory_explained
from fedvlr_jax.commands.launching.messages import command
from fedvlr_jax.commands.launching.processes import any_process, is_first, join_processes
from fedvlr_jax.commands.one_run.experiment import run_experiment
from fedvlr_jax.commands.one_run.privacy_accounts import budget_note, with_held_noise
from fedvlr_jax.commands.one_run.runs import load
from fedvlr_jax.config import Config
from fedvlr_jax.config.automatic import against_ease, without_rows
from fedvlr_jax.errors import InputError
from fedvlr_jax.memory import check_fits
from fedvlr_jax.privacy.statement import lines as statement_lines
from fedvlr_jax.report import Progress, print_summary
from fedvlr_jax.report.verdict import on_aborted_rounds
from fedvlr_jax.simulation import Simulation, make_simulation
from fedvlr_jax.training.tracking import Lenient, TensorBoard, Tracker

FLAGS = flags.FLAGS


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
        note_random_init(given)
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
    for line in on_aborted_rounds(summary):
        print(line)
    if limited:
        print(limited)
    if "privacy" in summary:
        print("\n".join(statement_lines(summary["privacy"])))
    path = directory.path
    print(f"report: {path / 'report.html'}")
    exported = path / "recommendations.csv"
    print(f"next: {command('evaluate', workdir=path, export=exported)}")


def note_random_init(given: Config) -> None:
    """Prints one line if --init=auto is random, with the flags that make it so."""
    against = against_ease(given) if given.init.init == "auto" else []
    if not against:
        return
    advice = "to compare this run with one without, give the other --init=random"
    if given.privacy.privacy == "central" and not without_rows(given):
        advice += (
            "; --init=ease, with noise, was better on two of four generators of 10,000 clients, "
            "equal on two, and worse with the 204 of KU"
        )
    print(f"--init=auto: random, because of {', '.join(against)}; {advice}")


def make_tracker(simulation: Simulation, note: Callable[[str], None]) -> Tracker | None:
    """The tracker of --tensorboard, in the first process; else None.

    Args:
      note: called with one line if the folder cannot be written; the run goes on.
    """
    if not FLAGS.tensorboard or not is_first():
        return None
    tracker = TensorBoard(FLAGS.tensorboard, simulation.model.fusion.names)
    return Lenient(tracker, f"--tensorboard={FLAGS.tensorboard}", note)
