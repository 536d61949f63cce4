"""Times the same federated work in four implementations, in one process.

    python -m benchmarks.peers --dataset=KU

- `literal`: Algorithm 1 as printed (`federated/algorithm1.py`), as in most federated simulators: a
  Python loop over jitted clients. Each client differentiates through the operators, works on all
  items, and uploads the gradient of table and operators.
- `loop`: the same loop, but a client uploads the gradient of the views that it touched. The server
  pulls it back through the operators once (not timed).
- `vmap`: all clients in one vmap, with every history padded to the longest.
- `simulation`: this project's plan for the same configuration.

All of them train all clients for the same local epochs from the same state. Only the last one
includes the server step, so the comparison favours the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks.datasets import named_dataset
from benchmarks.rounds import median_seconds
from fedvlr_jax.commands.launching.config_flags import define_config_flags, define_path
from fedvlr_jax.commands.launching.launch import launch
from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import pad_histories
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.algorithm1 import examples_of, train_client
from fedvlr_jax.federated.local import Broadcast, LocalInput
from fedvlr_jax.federated.participation import make_cohort
from fedvlr_jax.federated.round import make_train
from fedvlr_jax.federated.trained import Trained
from fedvlr_jax.simulation import make_simulation

FLAGS = flags.FLAGS


class ClientInputs(NamedTuple):
    """One round of all clients in one bucket.

    Attributes:
      clients: all N clients. train: the compiled local epochs of a chunk.
    """

    broadcast: Broadcast
    clients: LocalInput
    key: jax.Array
    train: Callable[..., Trained]


def client_inputs(config: Config, dataset: Dataset) -> ClientInputs:
    """The inputs of a round of the gathered plan."""
    simulation = make_simulation(config, dataset)
    model, state = simulation.model, simulation.init()
    shared = state.server.shared
    histories = pad_histories(dataset.train, np.arange(dataset.num_users))
    everyone = jnp.ones(dataset.num_users, bool)
    key = state.server.key
    cohort = make_cohort(
        key, jnp.int32(0), histories, everyone, model.backbone.weight, config.federation
    )
    views = model.fusion.views(shared["fusion"], shared["items"], simulation.features)
    broadcast = Broadcast(views, shared["head"], jnp.int32(0), config.federation.rates)
    private = jax.vmap(lambda c: model.init_private(jax.random.fold_in(key, c)))(histories.client)
    alpha = jnp.asarray(cohort.weight / jnp.sum(cohort.weight))
    train = jax.jit(make_train(simulation.task, "gathered"))
    return ClientInputs(broadcast, LocalInput(cohort, alpha, private), key, train)


def time_literal(config: Config, dataset: Dataset, repeats: int) -> float:
    """Median seconds of one pass of Algorithm 1, as printed, over all clients."""
    simulation = make_simulation(config, dataset)
    state, task, rates = simulation.init(), simulation.task, config.federation.rates
    histories = pad_histories(dataset.train, np.arange(dataset.num_users))
    key = state.server.key

    @jax.jit
    def train_one(private, history):
        examples = examples_of(task, history, key)
        epochs = config.federation.local_epochs
        return train_client(
            task, simulation.features, state.server, private, examples, epochs, rates
        )

    add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
    init = lambda u: task.model.init_private(jax.random.fold_in(key, u))
    take = lambda u: jax.tree.map(lambda leaf: np.asarray(leaf[u]), histories)
    clients = [(init(u), take(u)) for u in range(dataset.num_users)]

    def everyone():
        total = None
        for private, history in clients:
            _, upload = train_one(private, history)
            total = upload if total is None else add(total, upload)
        return total

    jax.block_until_ready(everyone())
    return median_seconds(everyone, repeats)


def time_loop(config: Config, dataset: Dataset, repeats: int) -> float:
    """Median seconds of one pass over all clients, one compiled call each."""
    broadcast, everybody, key, train = client_inputs(config, dataset)
    one = lambda u: jax.tree.map(lambda leaf: leaf[u : u + 1], everybody)
    clients = [one(u) for u in range(len(everybody.alpha))]
    add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))

    def everyone():
        total = None
        for client in clients:
            result = train(broadcast, client, key)
            total = result.upload if total is None else add(total, result.upload)
        return total

    jax.block_until_ready(everyone())
    return median_seconds(everyone, repeats)


def time_vmap(config: Config, dataset: Dataset, repeats: int) -> float:
    """Median seconds of all clients in one vmap padded to the longest history."""
    broadcast, clients, key, train = client_inputs(config, dataset)
    call = lambda: train(broadcast, clients, key)
    jax.block_until_ready(call())
    return median_seconds(call, repeats)


def time_simulation(config: Config, dataset: Dataset, repeats: int) -> float:
    """Median seconds of a whole round, including the server step."""
    simulation = make_simulation(config, dataset)
    state, _ = simulation.run_rounds(simulation.init(), 5)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        state, _ = simulation.run_rounds(state, 5)
        jax.block_until_ready(state)
        seconds.append((time.perf_counter() - began) / 5)
    return float(np.median(seconds))


def main() -> None:
    if FLAGS.backbone in ("pfedrec", "fedrap"):
        raise InputError(
            f"--backbone={FLAGS.backbone}: this benchmark cannot train private item rows; give a "
            "backbone without them"
        )
    dataset = named_dataset("dataset", FLAGS.dataset, FLAGS.data_root)
    rows: list[dict[str, Any]] = []
    for negatives in ("sampled", "expected"):
        config = Config.from_flat(
            backbone=FLAGS.backbone,
            fusion=FLAGS.fusion,
            init="random",
            negatives=negatives,
            protocol="paper",
        ).resolved
        rows.append(
            {
                "negatives": negatives,
                "literal": time_literal(config, dataset, FLAGS.repeats),
                "loop": time_loop(config, dataset, FLAGS.repeats),
                "vmap": time_vmap(config, dataset, FLAGS.repeats),
                "simulation": time_simulation(config, dataset, 5),
            }
        )
        jax.clear_caches()
    table = Table(title=f"{dataset.name}, {FLAGS.backbone} + {FLAGS.fusion}: seconds a round")
    names = ("literal", "loop", "vmap", "simulation")
    for name in ("negatives", *names, *(f"{name} / simulation" for name in names[:-1])):
        table.add_column(name, justify="right")
    for row in rows:
        ratios = (row[name] / row["simulation"] for name in names[:-1])
        seconds = (f"{row[name]:.4f}" for name in names)
        table.add_row(row["negatives"], *seconds, *(f"{ratio:.0f}x" for ratio in ratios))
    Console(width=120).print(table)
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    flags.DEFINE_string("dataset", "synthetic", "Data set, or synthetic:USERS:ITEMS.")
    define_config_flags("data", only=("data_root",))
    flags.DEFINE_string("backbone", "fcf", "Backbone.")
    flags.DEFINE_string("fusion", "bilevel", "Fusion.")
    flags.DEFINE_integer("repeats", 3, "Number of timed passes. The table shows the median.")
    define_path("json", "", "JSON file for the rows.")
    launch(main, __doc__)
