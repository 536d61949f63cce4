"""What a run will hold in memory, said before it starts, and refused where it cannot fit."""

from __future__ import annotations

import os

import jax

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.round import chunk_bytes, chunk_size
from fedvlr_jax.federated.scoring import SCORE_BYTES, client_score_bytes
from fedvlr_jax.simulation import Simulation
from fedvlr_jax.streaming import EVALUATED_BYTES, EVALUATED_COPIES

# What the runtime, the compiler and the libraries take themselves.
FIXED_BYTES = 800e6


def device_bytes() -> float:
    """Memory of one device: the accelerator's own, else all of this machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(stats.get("bytes_limit", machine))


def budget_bytes(config: Config) -> float:
    """--memory_budget_gb, or nine tenths of the device's memory."""
    return 1e9 * config.run.memory_budget_gb or 0.9 * device_bytes()


def estimate(simulation: Simulation, *, saves: bool = True) -> dict[str, float]:
    """Bytes by what they are for; their sum is what a run needs at its largest.

    "private" and "shared" are the state; "best" is the copy that early stopping keeps;
    "work" what a round adds (the rows that it returns beside those it was given, the views and
    their gradient, and one chunk of clients) or, where that is more, an evaluation (the scores of
    the clients that are evaluated at once, and a new best state beside the old one); "save" the
    copies of state and best state that are being written while training goes on, where they share
    this memory. With --store=disk private rows lie in files, those being written too, and count
    as nothing here. `saves`: whether the run makes checkpoints.
    """
    config, dataset, model = simulation.config, simulation.dataset, simulation.model
    row = trees.num_bytes(simulation.client_shapes)
    shared = trees.num_bytes(simulation.server_shapes)
    views = 4 * model.num_items * len(model.fusion.names) * model.width
    asked = config.federation.cohort or dataset.num_users
    longest = int(dataset.train.counts.max())
    chunk = chunk_bytes(simulation.task, simulation.plan, longest, asked)
    # The clients themselves: train items, their time, and the held-out ones.
    data = 12 * len(dataset.train) + 40 * dataset.num_users
    data += trees.num_bytes((simulation.features, simulation.start))
    if config.run.store == "device":
        private, staged = dataset.num_users * row, asked * row
        data += sum(trees.num_bytes(history) for history in simulation.histories)
        evaluated = 0
    else:
        # A chunk's rows as gathered, as trained, and those of the next chunk.
        at_once = min(asked, chunk_size(simulation.task, simulation.plan, longest))
        in_memory = config.run.store == "host"
        private = dataset.num_users * row if in_memory else 0
        staged = 3 * at_once * row + (asked * row if in_memory else 0)
        evaluated = EVALUATED_COPIES * min(dataset.num_users * row, EVALUATED_BYTES)
    scores = min(SCORE_BYTES, client_score_bytes(model) * dataset.num_users)
    save = 0
    if saves and (config.run.store != "device" or jax.default_backend() == "cpu"):
        save = 2 * (private + shared)
    return {
        "private": private,
        "shared": shared,
        "best": private + shared,
        "data": data,
        "work": max(
            staged + shared + 3 * views + chunk, scores + evaluated + views + private + shared
        ),
        "save": save,
        "fixed": FIXED_BYTES,
    }


def check_fits(simulation: Simulation, *, saves: bool = True) -> dict[str, float]:
    """The estimate, if it is within the budget.

    Raises:
      InputError: it is not; the message has the numbers, and what would help.
    """
    parts = estimate(simulation, saves=saves)
    budget = budget_bytes(simulation.config)
    need = sum(parts.values())
    if need > budget:
        listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
        raise InputError(
            f"--memory_budget_gb={budget / 1e9:.3g}: the run needs about {gigabytes(need)} "
            f"({listed}); use --store=disk, or lower --width, --router_hidden or --cohort"
        )
    return parts


def describe_plan(simulation: Simulation) -> str:
    """One line: how local epochs are executed, and what memory that is estimated to take."""
    parts, config = estimate(simulation), simulation.config
    counts = simulation.dataset.train.counts
    asked = config.federation.cohort or simulation.dataset.num_users
    at_once = min(asked, chunk_size(simulation.task, simulation.plan, int(counts.max())))
    devices = 1 if simulation.mesh is None else simulation.mesh.size
    listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
    return (
        f"plan {simulation.plan}, store {config.run.store}, {at_once} clients at once on {devices} "
        f"device{'s' * (devices > 1)}; about {gigabytes(sum(parts.values()))} of "
        f"{gigabytes(budget_bytes(config))}: {listed}"
    )


def gigabytes(size: float) -> str:
    """ "1.25 GB"."""
    return f"{size / 1e9:.3g} GB"
