"""Measures the cost of a round with a simulated clock against a plain round of the same cohort.

    python -m benchmarks.clock --clients=100000 --cohort=1000 --rounds=15

Both simulations have the same data and run in this process, round by round in turns. The clock has
diurnal clients, over-selection by 1.3 and a deadline. The table has medians, and the ratio of the
medians of CPU seconds of all threads. Fewer clients than --cohort may report in time; the last row
is the ratio per client that took part.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from fedvlr_jax.commands.launching.config_flags import define_path
from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.simulation import Simulation, make_simulation

FLAGS = flags.FLAGS
CLOCK = {"participation": "diurnal", "over_selection": 1.3, "deadline_s": 240.0}


def timed_rounds(simulations: dict[str, Simulation], rounds: int) -> dict[str, np.ndarray]:
    """{name: [rounds, 3]}: seconds, CPU seconds and participants of each round, in turns."""
    states: dict[str, Any] = {name: made.init() for name, made in simulations.items()}
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in simulations}
    # The first round compiles.
    for _ in range(rounds + 1):
        for name, made in simulations.items():
            began, cpu = time.perf_counter(), time.process_time()
            states[name], metrics = made.run_rounds(states[name], 1)
            spent = time.perf_counter() - began, time.process_time() - cpu
            found[name].append((*spent, int(metrics.participants[0])))
    return {name: np.array(rows[1:]) for name, rows in found.items()}


def main() -> None:
    sizes = {"users": FLAGS.clients, "items": FLAGS.items, "mean_history": 20}
    dataset = load_dataset("synthetic", synthetic=sizes)
    make = lambda **clock: make_simulation(
        Config.from_flat(fusion=FLAGS.fusion, cohort=FLAGS.cohort, **clock), dataset
    )
    found = timed_rounds({"plain": make(), "clock": make(**CLOCK)}, FLAGS.rounds)
    median = {name: np.median(rows, axis=0) for name, rows in found.items()}
    table = Table("", "seconds", "CPU seconds", "clients")
    for name, (seconds, cpu, clients) in median.items():
        table.add_row(name, f"{seconds:.3f}", f"{cpu:.3f}", f"{clients:,.0f}")
    ratio = median["clock"] / median["plain"]
    table.add_row("ratio", f"{ratio[0]:.2f}", f"{ratio[1]:.2f}", f"{ratio[2]:.2f}")
    per_client = ratio[:2] / ratio[2]
    table.add_row("ratio per client", f"{per_client[0]:.2f}", f"{per_client[1]:.2f}", "")
    Console(width=100).print(table)
    if FLAGS.json:
        names = ("seconds", "cpu_seconds", "clients")
        rows = {name: dict(zip(names, row, strict=True)) for name, row in median.items()}
        Path(FLAGS.json).write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_integer("clients", 100_000, "Number of clients.")
    flags.DEFINE_integer("items", 2000, "Number of items.")
    flags.DEFINE_integer("cohort", 1000, "Uploads that end a round.")
    flags.DEFINE_integer("rounds", 15, "Number of timed rounds of each kind.")
    flags.DEFINE_string("fusion", "bilevel", "Fusion.")
    define_path("json", "", "JSON file for the medians.")
    launch(main, __doc__)
