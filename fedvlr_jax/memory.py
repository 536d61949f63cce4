"""Estimates the memory of a run before it starts, and refuses a run that does not fit."""

from __future__ import annotations

import jax

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.ranking import BLOCK_BYTES
from fedvlr_jax.federated.plans import chunk_bytes, chunk_size
from fedvlr_jax.federated.scoring import SCORE_BYTES, client_score_bytes
from fedvlr_jax.machine import Budget, MemoryLimit, budget_within, gigabytes, memory_limit
from fedvlr_jax.simulation import Simulation
from fedvlr_jax.simulation.offloaded import EVALUATED_BYTES, EVALUATED_COPIES
from fedvlr_jax.simulation.on_device import OnDevice
from fedvlr_jax.simulation.remaking import saved_bytes

# Memory of the runtime, the compiler and the libraries.
FIXED_BYTES = 800e6


def device_limit() -> MemoryLimit:
    """Memory of one device: the accelerator's own, else the memory limit of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return MemoryLimit(float(stats["bytes_limit"]), "the device")
    return memory_limit()


def memory_budget(config: Config) -> Budget:
    """--memory_budget_gb, or nine tenths of the memory of `device_limit`."""
    return budget_within(device_limit(), config.run.memory_budget_gb)


def estimate(simulation: Simulation, *, saves: bool = True) -> dict[str, float]:
    """Estimated bytes of a run at its peak, by purpose. Their sum is the need of the run.

    | key | memory of |
    |---|---|
    | private, shared | the state |
    | best | the copy of the best state for early stopping |
    | data | histories, features, targets |
    | work | the larger of a round and an evaluation |
    | save | copies of state and best state during a save, if they share this memory |
    | fixed | runtime, compiler, libraries |

    A round holds the returned rows beside the given ones, the views, their gradient and one chunk
    of clients. An evaluation holds the scores of one block of clients, and a new best state beside
    the old one. With --store=disk private rows are in files and count as 0.

    Args:
      saves: whether the run makes checkpoints.
    """
    config, dataset, model = simulation.config, simulation.population, simulation.model
    row = trees.num_bytes(simulation.initial.client_shapes)
    shared = trees.num_bytes(simulation.initial.server_shapes)
    views = 4 * model.num_items * len(model.fusion.names) * model.width
    sampled = config.federation.cohort or dataset.num_users
    longest = int(dataset.train.counts.max())
    chunk = chunk_bytes(simulation.task, simulation.plan, longest, sampled)
    # The clients' items with times, and the held-out items in the form of the evaluation.
    entries = sum(len(part) for part in (dataset.train, dataset.valid, dataset.test))
    data = 12 * entries + 24 * dataset.num_users
    held_out = simulation.engine.evaluation.held_out
    data += trees.num_bytes((simulation.features, simulation.setup.initialization, held_out))
    if isinstance(simulation.engine, OnDevice):
        private, staged = dataset.num_users * row, sampled * row
        data += trees.num_bytes((simulation.engine.histories, simulation.engine.targets))
        evaluated = 0
    else:
        # The rows of a chunk before and after training, and the rows of the next chunk.
        at_once = min(sampled, chunk_size(simulation.task, simulation.plan, longest))
        in_memory = config.run.store == "host"
        private = dataset.num_users * row if in_memory else 0
        staged = 3 * at_once * row + (sampled * row if in_memory else 0)
        evaluated = EVALUATED_COPIES * min(dataset.num_users * row, EVALUATED_BYTES)
    scores = min(SCORE_BYTES, client_score_bytes(model) * dataset.num_users)
    # Two counts per target, and the scores of one block of targets.
    targets = max(map(len, simulation.engine.evaluation.parts.values()))
    scores += 8 * targets + min(BLOCK_BYTES, 4 * model.num_items * targets)
    save = 0
    if saves and (config.run.store != "device" or jax.default_backend() == "cpu"):
        # Rows that a checkpoint does not hold are not copied.
        save = 2 * min(private + shared, sum(saved_bytes(simulation)))
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
    """Returns the estimate, if it is within the budget.

    Raises:
      InputError: it exceeds the budget. The message has the numbers and remedies.
    """
    parts = estimate(simulation, saves=saves)
    budget = memory_budget(simulation.config)
    need = sum(parts.values())
    if need > budget.size:
        listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
        raise InputError(
            f"the run needs about {gigabytes(need)} ({listed}), but its budget is "
            f"{budget}; use --store=disk, lower --width, --router_hidden or --cohort, or give "
            "another --memory_budget_gb"
        )
    return parts


def describe_plan(simulation: Simulation) -> str:
    """One line: the plan, the store, the chunk and the estimated memory."""
    parts, config = estimate(simulation), simulation.config
    counts = simulation.population.train.counts
    sampled = config.federation.cohort or simulation.population.num_users
    at_once = min(sampled, chunk_size(simulation.task, simulation.plan, int(counts.max())))
    devices = simulation.setup.num_devices
    found = f" of {jax.device_count()}" if jax.device_count() > devices else ""
    listed = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
    return (
        f"plan {simulation.plan}, store {config.run.store}, {at_once} clients at once on {devices} "
        f"device{'s' * (devices > 1)}{found}; about {gigabytes(sum(parts.values()))} of "
        f"{memory_budget(config)}: {listed}"
    )
