"""The number of clients that a plan trains at once, by the memory of their working arrays."""

from __future__ import annotations

import jax

from fedvlr_jax import trees
from fedvlr_jax.federated.local import Task
from fedvlr_jax.federated.plans.choice import PLANS
from fedvlr_jax.settings import key_of, shapes_of

# Upper bound on the bytes of the working arrays of one chunk of clients.
CHUNK_BYTES = 1 << 30


def client_bytes(task: Task, plan: str, history_length: int) -> int:
    """Estimate of the working bytes of one client of a chunk."""
    # Its rows before the round, after it, and their gradient.
    rows = 3 * trees.num_bytes(shapes_of(task.model.init_private, key_of(0)))
    if task.aggregator.compress is not None:
        # Its upload as an array, with its residual, before and after compression.
        num_views = len(task.model.fusion.names)
        rows += 4 * 4 * task.model.num_items * num_views * task.model.width
    return PLANS[plan].client_bytes(task, history_length) + rows


def chunk_size(task: Task, plan: str, history_length: int) -> int:
    """How many clients are trained at once.

    Their working arrays take at most CHUNK_BYTES (on a CPU, `Plan.cache_bytes` where the plan has
    it) and at most a quarter of --memory_budget_gb. The peak memory of a round is then the state
    plus one chunk, for any cohort.
    """
    if task.config.federation.chunk:
        return task.config.federation.chunk
    cache = PLANS[plan].cache_bytes if jax.default_backend() == "cpu" else None
    most = CHUNK_BYTES if cache is None else cache
    budget = task.config.run.memory_budget_gb * 1e9 / 4 or most
    return int(max(1, min(budget, most) // client_bytes(task, plan, history_length)))


def chunk_bytes(task: Task, plan: str, history_length: int, clients: int) -> int:
    """Estimate of the working bytes of the largest chunk among `clients`.

    A rule that needs all uploads at once keeps the upload of every client, and the inner products
    of all pairs.
    """
    if task.aggregator.reduce.combine is not None:
        return clients * (client_bytes(task, plan, history_length) + 3 * 4 * clients)
    at_once = min(clients, chunk_size(task, plan, history_length))
    return at_once * client_bytes(task, plan, history_length)
