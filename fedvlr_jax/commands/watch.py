"""Follows a run from another terminal: a line for each evaluation.

    fedvlr watch runs/ku

Prints what metrics.jsonl of the folder holds, then each new evaluation, until the run has finished.
It only reads. The run may be on another machine with the same file system. Ctrl-C ends it; --once
prints what there is and leaves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from fedvlr_jax.errors import InputError
from fedvlr_jax.report.run_directory import METRICS, RunDirectory

FLAGS = flags.FLAGS
# A run directory is read anew as often as this.
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
    print("finished" if run.has_results() else "not finished", flush=True)


def _sleep() -> bool:
    time.sleep(LOOKS_EVERY_S)
    return True


def follow(run: RunDirectory, wait: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """The evaluations of a run, each once, until it has finished or `wait` is False.

    A run that begins again, or takes an evaluation back, is followed from there.
    """
    shown = -1
    while True:
        # Looked at first, so that no evaluation is missed that the end was written after.
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
