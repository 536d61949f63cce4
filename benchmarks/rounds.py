"""Measures compilation, round, evaluation and memory for each combination.

    python -m benchmarks.rounds --datasets=KU,ML --combinations=fcf+bilevel,fedncf+bilevel

The process first measures the limits of the machine: FLOP/s of a large float32 matrix product and
bytes/s of a large copy. Then it measures the rows, one after the other. The FLOPs of a round are
those of its matrix products. The bytes of a round are the minimum: private rows and server state,
read and written, and the views. NDCG@50 is that of the validation part after all timed rounds,
whose number is equal in all rows. It shows the effect of --precisions=float32,bf16 (operands of the
dense plan's products). --aggregations=float32,krum compares rules.
"""

from __future__ import annotations

import gc
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks.counting import product_flops
from benchmarks.datasets import named_dataset
from fedvlr_jax import trees
from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path
from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.config import BACKBONE_NAMES, FUSION_NAMES, Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import averages
from fedvlr_jax.machine import peak_rss_mb
from fedvlr_jax.simulation import make_simulation

FLAGS = flags.FLAGS


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock seconds of a call, until its results are ready."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def ceilings() -> dict[str, float]:
    """Measured limits of this machine: FLOP/s of a matrix product, bytes/s of a copy."""
    matrix = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    vector = jnp.ones(1 << 26, jnp.float32)
    copy = jax.jit(lambda a: a + 1.0)
    for function, operand in ((product, matrix), (copy, vector)):
        jax.block_until_ready(function(operand))
    return {
        "flops_per_s": 2 * 2048**3 / median_seconds(lambda: product(matrix), 7),
        "bytes_per_s": 2 * vector.nbytes / median_seconds(lambda: copy(vector), 7),
    }


def measure(config: Config, dataset: Dataset, rounds: int, repeats: int) -> dict[str, Any]:
    """One row: seconds of the first call, of a round, of an evaluation; FLOPs and bytes."""
    simulation = make_simulation(config, dataset)
    began = time.perf_counter()
    state = jax.block_until_ready(simulation.init())
    init_s = time.perf_counter() - began

    schedule = simulation.sampling.schedule(0, 0, 1, 1)
    inputs = state, simulation.on_device.population_with(config.federation.rates), schedule
    began = time.perf_counter()
    simulation.on_device.run.__wrapped__.lower(*inputs, 1, 1).compile()
    compile_s = time.perf_counter() - began
    flops = product_flops(lambda *inputs: simulation.on_device.run_function(*inputs, 1, 1), *inputs)
    views = 4 * dataset.num_items * len(simulation.model.fusion.names) * config.model.width
    asked = config.federation.cohort or dataset.num_users
    rows = asked * trees.num_bytes(simulation.initial.client_shapes)
    least_bytes = 2 * (rows + trees.num_bytes(state.server)) + views

    state, _ = simulation.run_rounds(state, rounds)
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        began, cpu_began = time.perf_counter(), time.process_time()
        state, _ = simulation.run_rounds(state, rounds)
        jax.block_until_ready(state)
        seconds.append((time.perf_counter() - began) / rounds)
        cpu_seconds.append((time.process_time() - cpu_began) / rounds)
    ranks = simulation.evaluate(state, "valid")
    reached = averages(ranks.ahead, ranks.tied, dataset, "valid", config.evaluation.cutoffs)
    eval_s = median_seconds(lambda: simulation.evaluate(state, "valid"), repeats)
    return {
        "dataset": dataset.name,
        "clients": config.federation.cohort or dataset.num_users,
        "items": dataset.num_items,
        "backbone": config.model.backbone,
        "fusion": config.model.fusion,
        "plan": simulation.plan,
        "precision": config.federation.matmul_precision,
        "aggregation": config.federation.aggregation,
        "rounds": int(state.server.round),
        "ndcg@50": reached["ndcg@50"],
        "init_s": init_s,
        "compile_s": compile_s,
        "round_s": float(np.median(seconds)),
        "cpu_s": float(np.median(cpu_seconds)),
        "eval_s": eval_s,
        "flops": flops,
        "bytes": float(least_bytes),
        "peak_rss_mb": peak_rss_mb(),
    }


def combinations(text: str) -> list[tuple[str, str]]:
    """[("fcf", "bilevel"), ...] of "fcf+bilevel,..."; "all" names all there are."""
    if text == "all":
        return [(b, f) for b in BACKBONE_NAMES for f in FUSION_NAMES]
    pairs = []
    for part in text.split(","):
        names = part.split("+")
        if len(names) != 2:
            raise InputError(f"--combinations={text}: {part!r} is not like fcf+bilevel")
        pairs.append((names[0], names[1]))
    return pairs


def show(rows: list[dict[str, Any]], machine: dict[str, float]) -> Table:
    table = Table(title="Seconds a round; shares of this machine's measured ceilings")
    for name in ("data", "clients", "items", "model", "plan", "operands", "rule"):
        table.add_column(name, justify="right" if name in ("clients", "items") else "left")
    for name in ("compile s", "round ms", "CPU ms", "eval ms", "NDCG"):
        table.add_column(name, justify="right")
    for name in ("GFLOP/s", "of peak", "GB/s", "of peak", "RSS MB"):
        table.add_column(name, justify="right")
    for row in rows:
        flops, moved = row["flops"] / row["round_s"], row["bytes"] / row["round_s"]
        table.add_row(
            row["dataset"],
            str(row["clients"]),
            str(row["items"]),
            f"{row['backbone']} + {row['fusion']}",
            row["plan"],
            row["precision"],
            row["aggregation"],
            f"{row['compile_s']:.1f}",
            f"{1e3 * row['round_s']:.1f}",
            f"{1e3 * row['cpu_s']:.1f}",
            f"{1e3 * row['eval_s']:.1f}",
            f"{row['ndcg@50']:.2f}",
            f"{flops / 1e9:.1f}",
            f"{flops / machine['flops_per_s']:.0%}",
            f"{moved / 1e9:.1f}",
            f"{moved / machine['bytes_per_s']:.0%}",
            f"{row['peak_rss_mb']:.0f}",
        )
    table.caption = (
        f"{len(jax.devices())} x {jax.devices()[0].device_kind}, jax {jax.__version__}; ceilings "
        f"{machine['flops_per_s'] / 1e9:.0f} GFLOP/s, {machine['bytes_per_s'] / 1e9:.1f} GB/s. "
        "FLOPs of the matrix products; the bytes that a round cannot do without."
    )
    return table


def main() -> None:
    machine = ceilings()
    rows = []
    for name in FLAGS.datasets.split(","):
        dataset = named_dataset("datasets", name, FLAGS.data_root)
        choices = itertools.product(
            combinations(FLAGS.combinations),
            FLAGS.precisions.split(","),
            FLAGS.aggregations.split(","),
        )
        for (backbone, fusion), precision, aggregation in choices:
            config = Config.from_flat(
                backbone=backbone,
                fusion=fusion,
                protocol="paper",
                cohort=FLAGS.cohort,
                matmul_precision=precision,
                aggregation=aggregation,
                init="random",
            ).resolved
            rows.append(measure(config, dataset, FLAGS.rounds, FLAGS.repeats))
            jax.clear_caches()
            gc.collect()
    Console(width=160).print(show(rows, machine))
    if FLAGS.json:
        result = {"machine": machine, "jax": jax.__version__, "rows": rows}
        Path(FLAGS.json).write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_string(
        "datasets", "synthetic", "Data sets, comma-separated, or synthetic:USERS:ITEMS."
    )
    define_config_flags("data", only=("data_root",))
    flags.DEFINE_string("combinations", "fcf+bilevel", "BACKBONE+FUSION, comma-separated, or all.")
    flags.DEFINE_string("precisions", "float32", "Values of --matmul_precision, comma-separated.")
    flags.DEFINE_string("aggregations", "float32", "Values of --aggregation, comma-separated.")
    flags.DEFINE_integer("cohort", 0, "Number of clients sampled in each round. 0: all clients.")
    flags.DEFINE_integer("rounds", 5, "Number of rounds in one compiled call.")
    flags.DEFINE_integer("repeats", 5, "Number of timed calls. The table shows the median.")
    define_path("json", "", "JSON file for the rows.")
    launch(main, __doc__)
