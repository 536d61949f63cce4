"""The plans: ways to execute local epochs that give the same numbers, and which one is cheapest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from fedvlr_jax import registry, trees
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.gathered import num_slots
from fedvlr_jax.federated.local import Task
from fedvlr_jax.federated.plan import Plan
from fedvlr_jax.settings import key_of, shapes_of
from fedvlr_jax.uplink import Needs

# Cost of a gathered row (gather, batched small products, scatter) relative to a row of the dense
# plan's matrix products, as measured by benchmarks/rounds.
GATHERED_ROW_COST = 8.0

# Upper bound on the bytes of the working arrays of one chunk of clients.
CHUNK_BYTES = 1 << 30
# The same on a CPU, for plans that pass several times over [clients, I, d]: the array then stays in
# the cache from one pass to the next.
CACHE_BYTES = {"catalogue": 1 << 25, "factored": 1 << 26}


PLANS: Mapping[str, Plan] = registry.Objects(registry.PLANS)

NEEDED = {
    Needs.NORMS: "each single upload (--clip_norm, --aggregation=secure)",
    Needs.WHOLE: "whole uploads (--aggregation, --upload_bits, --upload_rows, --groups)",
}


def choose_plan(task: Task, history_lengths: Sequence[int], clients: Sequence[int]) -> str:
    """A name of PLANS: that of --plan, or the plan of the lowest cost.

    In an epoch the dense plan works on clients * I rows and the gathered plan on clients * M, each
    at GATHERED_ROW_COST. Where dense does not fit, the first plan that fits is taken.

    Args:
      history_lengths: the padded history lengths of the buckets. clients: their sizes.

    Raises:
      InputError: the plan of --plan cannot train these clients.
    """
    given, needs = task.config.federation.plan, task.aggregator.needs
    fitting = [name for name, plan in PLANS.items() if plan.fits(task)]
    able = [name for name in fitting if PLANS[name].gives >= needs]
    if given in fitting and given not in able:
        raise InputError(
            f"--plan={given}: gives sums of uploads alone, but these flags need "
            f"{NEEDED[needs]}; plans that give it are {', '.join(able)}, and auto chooses"
        )
    if given not in ("auto", *able):
        raise InputError(
            f"--plan={given}: cannot train --backbone={task.config.model.backbone} with these "
            f"flags; those that can are {', '.join(able)}, and auto chooses"
        )
    if given != "auto":
        return given
    if able[0] != "dense":
        return able[0]
    dense = sum(clients) * task.model.num_items
    gathered = sum(n * num_slots(task, p) for n, p in zip(clients, history_lengths, strict=True))
    return "dense" if dense <= GATHERED_ROW_COST * gathered else "gathered"


def client_bytes(task: Task, plan: str, history_length: int) -> int:
    """Estimate of the working bytes of one client of a chunk."""
    config, num_views = task.config.federation, len(task.model.fusion.names)
    # Its rows before the round, after it, and their gradient.
    rows = 3 * trees.num_bytes(shapes_of(task.model.init_private, key_of(0)))
    if task.aggregator.compress is not None:
        # Its upload as an array, with its residual, before and after compression.
        rows += 4 * 4 * task.model.num_items * num_views * task.model.width
    if plan == "dense":
        return 4 * (config.local_epochs + 6) * task.model.num_items + rows
    if plan == "catalogue":
        # Its item vectors, the mapped ones, and their gradient.
        return 4 * 6 * task.model.num_items * task.model.width + rows
    if plan == "factored":
        # Its table with and without the negatives' rows, and the factors of each item by epoch and
        # view.
        coefficients = (config.local_epochs + 4) * (num_views + 1)
        return 4 * task.model.num_items * (2 * task.model.width + coefficients) + rows
    slot = task.model.width * (4 * num_views + 6) + config.local_epochs
    return 4 * num_slots(task, history_length) * slot + rows


def chunk_size(task: Task, plan: str, history_length: int) -> int:
    """How many clients are trained at once.

    Their working arrays take at most CHUNK_BYTES (on a CPU, CACHE_BYTES for the plans in it) and at
    most a quarter of --memory_budget_gb. The peak memory of a round is then the state plus one
    chunk, for any cohort.
    """
    if task.config.federation.chunk:
        return task.config.federation.chunk
    most = CHUNK_BYTES
    if jax.default_backend() == "cpu":
        most = CACHE_BYTES.get(plan, most)
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
