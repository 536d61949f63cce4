"""Measures the cost of a client-round as the population, the catalogue and the cohort grow.

    python -m benchmarks.scaling --clients=1000,10000,100000,1000000
    python -m benchmarks.scaling --clients=1000000 --cohort=10000 --json=scaling.json
    python -m benchmarks.scaling --clients=100000 --cohort=0 --items=2000 --rounds=1
    python -m benchmarks.scaling --clients=1000,10000 --cohort=0 --items=2000 --rounds=1 --init=ease

Each row has its own process, and so its own peak memory. Histories have 20 items on average. "init
s" are the seconds before the first round. The seconds of a round are the median after the first
call, which compiles. On two cores the first command takes about three minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from fedvlr_jax.commands.launching.config_flags import define_path, whole_numbers
from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.config import Config
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.machine import peak_rss_mb
from fedvlr_jax.memory import check_fits
from fedvlr_jax.simulation import make_simulation

FLAGS = flags.FLAGS
MEAN_HISTORY = 20


def measure(clients: int, items: int) -> dict[str, Any]:
    """Measures one row in this process."""
    began = time.perf_counter()
    sizes = {"users": clients, "items": items, "mean_history": MEAN_HISTORY}
    dataset = load_dataset("synthetic", synthetic=sizes)
    generate_s = time.perf_counter() - began
    config = Config.from_flat(
        backbone=FLAGS.backbone,
        fusion=FLAGS.fusion,
        init=FLAGS.init,
        store=FLAGS.store,
        store_dir=FLAGS.store_dir,
        cohort=FLAGS.cohort if FLAGS.cohort < clients else 0,
    )
    began = time.perf_counter()
    simulation = make_simulation(config, dataset)
    estimate = sum(check_fits(simulation).values())
    state = simulation.init()
    init_s = time.perf_counter() - began
    seconds = []
    for _ in range(1 + FLAGS.rounds):
        began = time.perf_counter()
        state, metrics = simulation.run_rounds(state, 1)
        seconds.append(time.perf_counter() - began)
    round_s = float(np.median(seconds[1:]))
    return {
        "clients": clients,
        "items": items,
        "cohort": int(metrics.participants[-1]),
        "store": config.run.store,
        "plan": simulation.plan,
        "generate_s": generate_s,
        "init_s": init_s,
        "first_round_s": seconds[0],
        "round_s": round_s,
        "client_round_us": 1e6 * round_s / int(metrics.participants[-1]),
        "features_mb": sum(x.nbytes for x in dataset.features.values()) / 1e6,
        "estimate_mb": estimate / 1e6,
        "peak_rss_mb": peak_rss_mb(),
    }


def in_its_own_process(clients: int, items: int) -> dict[str, Any]:
    """The row that this command measures when it is given one size."""
    names = ("backbone", "fusion", "init", "store", "store_dir", "cohort", "rounds")
    passed = [f"--{name}={FLAGS[name].value}" for name in names]
    sizes = [f"--clients={clients}", f"--items={items}"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", *passed, *sizes, "--row"],
        capture_output=True,
        check=False,
        text=True,
    )
    if result.returncode:
        last = result.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"{clients} clients, {items} items: {last[-1].removeprefix('error: ')}")
    return json.loads(result.stdout.splitlines()[-1])


def show(rows: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{FLAGS.backbone} + {FLAGS.fusion}, histories of {MEAN_HISTORY}")
    columns = {
        "clients": "{clients:,}",
        "items": "{items:,}",
        "cohort": "{cohort:,}",
        "store": "{store}",
        "plan": "{plan}",
        "generate s": "{generate_s:.1f}",
        "init s": "{init_s:.1f}",
        "first round s": "{first_round_s:.1f}",
        "round s": "{round_s:.3f}",
        "µs a client-round": "{client_round_us:.0f}",
        "features MB": "{features_mb:.0f}",
        "estimate MB": "{estimate_mb:.0f}",
        "peak RSS MB": "{peak_rss_mb:.0f}",
    }
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(cell.format(**row) for cell in columns.values()))
    return table


def main() -> None:
    clients = whole_numbers("clients", FLAGS.clients)
    items = whole_numbers("items", FLAGS.items)
    if FLAGS.row:
        print(json.dumps(measure(clients[0], items[0])))
        return
    rows = [in_its_own_process(n, i) for i in items for n in clients]
    Console(width=150).print(show(rows))
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_string("clients", "1000,10000,100000", "Numbers of clients, comma-separated.")
    flags.DEFINE_string("items", "10000", "Numbers of items, comma-separated.")
    flags.DEFINE_integer("cohort", 1000, "Number of clients sampled in each round. 0: all clients.")
    flags.DEFINE_integer("rounds", 5, "Number of timed rounds. The table shows the median.")
    flags.DEFINE_string("backbone", "fcf", "Backbone.")
    flags.DEFINE_string("fusion", "bilevel", "Fusion.")
    flags.DEFINE_string("init", "random", "Initialization: random, or ease with --cohort=0.")
    flags.DEFINE_string("store", "disk", "Storage of the private rows: device, host or disk.")
    define_path("store_dir", "", "Folder of the files of --store=disk.")
    flags.DEFINE_boolean("row", False, "Internal: measures one size and prints its JSON.")
    define_path("json", "", "JSON file for the rows.")
    launch(main, __doc__)
