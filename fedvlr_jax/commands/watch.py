"""Follows a run from another terminal: a line for each evaluation.

    fedvlr watch runs/ku

The command prints the lines of metrics.jsonl in the folder, then each new evaluation, until the run
has finished. It only reads. The run may be on another machine with the same file system. Ctrl-C
ends the command; with --once it prints the present lines and exits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from fedvlr_jax.errors import InputError
from fedvlr_jax.report.run_directory import METRICS, REPORT, RunDirectory

FLAGS = flags.FLAGS
# Seconds between two reads of the run directory.
LOOKS_EVERY_S = 1.0


def main() -> None:
    if not FLAGS.workdir:
        raise InputError("give the folder of a run: fedvlr watch runs/demo")
    run = RunDirectory.open(FLAGS.workdir)
    config = run.read_config()
    rounds, command = config["flags"].get("rounds"), config.get("command", "")
    print(f"{run.path}: {command}", flush=True)
    wait = (lambda: False) if FLAGS.once else _sleep
    for entry in follow(run, wait):
        print(line_of(entry, rounds), flush=True)
    ended = f"finished; report: {run.path / REPORT}" if run.has_results() else "not finished"
    print(ended, flush=True)


def _sleep() -> bool:
    time.sleep(LOOKS_EVERY_S)
    return True


def follow(run: RunDirectory, wait: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """The evaluations of a run, each once, until it has finished or `wait` is False.

    If a run starts again or removes an evaluation, it continues with the new evaluations.
    """
    shown = -1
    while True:
        # Test this first: evaluations that were written before the end are then not missed.
        finished = run.has_results()
        entries = run.read_metrics() if (run.path / METRICS).exists() else []
        shown = min(shown, entries[-1]["round"] if entries else -1)
        for entry in entries:
            if entry["round"] > shown:
                yield entry
                shown = entry["round"]
        if finished or not wait():
            return


def line_of(entry: dict[str, Any], rounds: int | None) -> str:
    """One evaluation: round, loss and validation metrics in percent."""
    fields = [f"round {entry['round']}" + (f"/{rounds}" if rounds else "")]
    if entry.get("loss") is not None:
        fields.append(f"loss {entry['loss']:.4f}")
    valid = entry.get("valid") or {}
    named = (("valid HR@50", "hr@50"), ("NDCG@50", "ndcg@50"))
    fields += [f"{label} {valid[key]:.1f}" for label, key in named if key in valid]
    if entry.get("best_round") is not None:
        fields.append(f"best round {entry['best_round']}")
    return "  ".join(fields)
