"""Measures Theorem 1: the squared gradient norm of the objective over rounds.

    fedvlr convergence --workdir=runs/convergence

The command trains on synthetic data (100 items) for each number of users in --clients and each
number of local epochs A in --epochs. The objective is sum_u alpha_u J_u with the exact expectation
over negatives. The gradient is over all parameters, shared and private. The theorem bounds the mean
squared norm over T rounds by O(1/sqrt T) + O(A/T) + O(zeta^2/n_s); the last term is a floor.

convergence.json, .csv and .md in --workdir have the mean squared norm over the first T rounds, for
doubling T, and its log-log slope over the later half. The bound predicts a slope of -0.5 or below
before the floor. convergence.svg plots it; a hump in a curve is a saddle point that the private
heads leave. Flags of fedvlr train set the rest; the defaults here are plain steps without decay.
The measured gradient is the sum over all clients, whatever the aggregation, sampling, clipping and
noise of the training are. On two cores the command takes about ten minutes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from rich.console import Console

from fedvlr_jax.commands.launching.config_flags import config_from_flags, note_unused, whole_numbers
from fedvlr_jax.commands.one_run.runs import load, required_workdir
from fedvlr_jax.commands.tables.tables import write_table, write_text
from fedvlr_jax.config import Config
from fedvlr_jax.config.magnitudes import what_to_lower
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import NonFiniteError
from fedvlr_jax.reduce.mean import normalised_weights
from fedvlr_jax.report.folder import Table
from fedvlr_jax.report.study_plots import loglog_lines
from fedvlr_jax.settings import compiled
from fedvlr_jax.simulation import Simulation, State, make_simulation
from fedvlr_jax.types import Rates

FLAGS = flags.FLAGS

# Step of the probe; the result is divided by it. A large step keeps the gradient's digits in
# float32.
STEP = 1e3


def probe_config(config: Config) -> Config:
    """One plain step of all parameters on the exact objective. Its change is -STEP * gradient.

    All clients take part, and the server sums their whole uploads without clipping and noise,
    whatever the flags of the training are.
    """
    rates = dict.fromkeys(Rates._fields, STEP) | {"client_decay": 0.0, "server_decay": 0.0}
    plain = Config().flat
    of_uploads = (*dataclasses.asdict(config.privacy), *dataclasses.asdict(config.fleet))
    reset = {
        name: plain[name]
        for name in (
            *of_uploads,
            *("cohort", "sampling", "cohort_places", "client_dropout", "min_local_epochs"),
            *("upload", "secure_bound", "secure_levels", "secure_threshold"),
            *("byzantine_share", "init_noise_multiplier"),
        )
    }
    changes: dict[str, Any] = {
        "local_epochs": 1,
        "negatives": "expected",
        "server_optimizer": "sgd",
        "aggregation": "float32",
        "plan": "auto",
    }
    # Resolved first: --init=auto depends on flags that are reset.
    return config.resolved.changed(**rates, **reset, **changes)


def make_gradient_norm(training: Simulation) -> Callable[[State], float]:
    """state of `training` -> float: the squared gradient norm of sum_u alpha_u J_u.

    The function does not donate the state. It raises NonFiniteError if the norm is not finite.
    """
    simulation = make_simulation(probe_config(training.config), training.dataset)
    plain = simulation.init().server
    counts = jnp.asarray(simulation.population.train.counts, jnp.float32)
    weight = counts if simulation.model.backbone.weight == "history" else jnp.ones_like(counts)
    alpha = normalised_weights(weight, jnp.ones(counts.shape, bool))

    @compiled
    def squared_norm(before: State, after: State) -> jax.Array:
        shared = jax.tree.map(lambda a, b: a - b, before.server.shared, after.server.shared)
        total = jnp.zeros(())
        for leaf in jax.tree.leaves(shared):
            total += jnp.sum(jnp.square(leaf))
        for rows, old, new in zip(simulation.buckets, before.private, after.private, strict=True):
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
                # Padding rows follow the rows of the clients.
                change = (a - b)[: len(rows)].reshape(len(rows), -1) * alpha[rows][:, None]
                total += jnp.sum(jnp.square(change))
        return total / STEP**2

    ours, theirs = simulation.buckets, training.buckets
    same_rows = len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))

    def in_probe(state: State) -> State:
        """The state with the probe's buckets and the rest of its server."""
        server = state.server
        # The optimizer, the uplink and the noise of the training may have a state.
        server = plain._replace(round=server.round, key=server.key, shared=server.shared)
        if same_rows:
            return State(server, state.private)
        return simulation.unpack({**training.pack(state), "server": server})

    def gradient_norm(state: State) -> float:
        before = in_probe(state)
        try:
            # `run_rounds` donates its input.
            after, _ = simulation.run_rounds(jax.tree.map(lambda leaf: leaf.copy(), before), 1)
        except NonFiniteError:
            # Its error names the step of the probe.
            reached = int(jax.device_get(state.server.round))
            line = f"after round {reached} the gradient is not finite"
            raise NonFiniteError(f"{line}; {what_to_lower(training.config)}", state) from None
        return float(squared_norm(before, after))

    return gradient_norm


def measure(config: Config, dataset: Dataset) -> np.ndarray:
    """float64 [T]: the squared gradient norm before each round."""
    simulation = make_simulation(config, dataset)
    gradient_norm = make_gradient_norm(simulation)
    state = simulation.init()
    norms = []
    for _ in range(config.federation.rounds):
        norms.append(gradient_norm(state))
        state, _ = simulation.run_rounds(state, 1)
    return np.asarray(norms)


def summarise(norms: np.ndarray) -> dict[str, Any]:
    """The mean over the first T rounds for T = 1, 2, 4, ..., and its log-log slope (later half)."""
    mean = np.cumsum(norms) / np.arange(1, len(norms) + 1)
    rounds = [2**p for p in range(int(np.log2(len(norms))) + 1)]
    means = [float(mean[t - 1]) for t in rounds]
    # In early rounds the norm depends on the initial values.
    later = slice(len(rounds) // 2, None)
    fit = lambda: np.polyfit(np.log(rounds[later]), np.log(means[later]), 1)[0]
    slope = float(fit()) if len(rounds) > 2 else None
    return {"rounds": rounds, "mean_squared_norm": means, "slope": slope}


def main() -> None:
    base = config_from_flags()
    folder = required_workdir(base, "runs/convergence")
    clients = whole_numbers("clients", FLAGS.clients)
    epochs = whole_numbers("epochs", FLAGS.epochs)
    note_unused(base)
    lines: list[dict[str, Any]] = []
    for number in clients:
        data = dataclasses.replace(base.data, synthetic_users=number)
        dataset = load(dataclasses.replace(base, data=data))
        for local_epochs in epochs:
            config = base.changed(synthetic_users=number, local_epochs=local_epochs)
            found = summarise(measure(config, dataset))
            lines.append({"clients": number, "local_epochs": local_epochs, **found})
            slope = "-" if found["slope"] is None else f"{found['slope']:.2f}"
            Console().print(f"{number} clients, A = {local_epochs}: slope {slope}", highlight=False)
    rounds = lines[0]["rounds"]
    headings = ("clients", "A", *(f"T={t}" for t in rounds), "slope")
    rows = [
        [
            *(f"{line['clients']:,}", str(line["local_epochs"])),
            *(f"{value:.2e}" for value in line["mean_squared_norm"]),
            "-" if line["slope"] is None else f"{line['slope']:.2f}",
        ]
        for line in lines
    ]
    stem = folder / "convergence"
    title = f"{base.model.backbone} + {base.model.fusion}: mean squared gradient norm over T rounds"
    caption = "Gradient over all parameters, shared and private; slope in log-log scale."
    write_table(Table(title, headings, rows, caption, chosen=False), lines, stem)
    curves = {
        (f"{line['clients']:,} clients", f"A = {line['local_epochs']}"): line["mean_squared_norm"]
        for line in lines
    }
    title = f"{base.model.backbone} + {base.model.fusion}: mean squared gradient norm"
    write_text(stem.with_suffix(".svg"), loglog_lines(title, rounds, curves))
