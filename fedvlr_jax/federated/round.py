"""One federated round: broadcast, local epochs, uplink, weighted sum, one server step.

Algorithm 1 of the paper, with the identity that makes it cheap. Within a round the ID
table D and the operators gamma stay at the broadcast value, and the pull-back through
the operators g is linear, so

    sum_u alpha_u grad_{D,gamma} J_u  =  VJP_g( sum_u alpha_u grad_F J_u ):

a client needs the views F and uploads their gradient alone; the server pulls the sum
back through g once. The round sees cohort-sized arrays only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax import trees
from fedvlr_jax.federated.aggregation import normalised_weights, server_optimizer
from fedvlr_jax.federated.dense import make_dense_update
from fedvlr_jax.federated.gathered import make_gathered_update, num_slots
from fedvlr_jax.federated.local import Broadcast, LocalResult, LocalUpdate, Task, Upload
from fedvlr_jax.federated.participation import LOCAL, NOISE, stream
from fedvlr_jax.federated.privacy import add_noise
from fedvlr_jax.types import Cohort, PyTree, Rates, RoundMetrics, ServerState

# A gathered row costs about this many times a row of the dense plan's matrix products
# (gather, batched small products, scatter), as measured by benchmarks/rounds.
GATHERED_ROW_COST = 8.0

# Bytes that the working arrays of one chunk of clients may take.
CHUNK_BYTES = 1 << 30

RoundFunction = Callable[
    [ServerState, tuple[PyTree, ...], tuple[Cohort, ...], Mapping[str, jax.Array], Rates],
    tuple[ServerState, tuple[PyTree, ...], RoundMetrics],
]


def choose_plan(task: Task, history_lengths: Sequence[int], clients: Sequence[int]) -> str:
    """ "dense" or "gathered", by the number of rows that each would work on in an epoch.

    Dense works on clients * I rows, gathered on clients * M, each M-row at
    GATHERED_ROW_COST; a head that is not linear, or a personal item table, has no dense
    plan. `history_lengths` are the padded lengths of the buckets, `clients` their sizes.
    """
    backbone, config = task.model.backbone, task.config.federation
    if config.plan != "auto":
        return config.plan
    if backbone.linear is None or backbone.item_rows == "personal":
        return "gathered"
    dense = sum(clients) * task.model.num_items
    gathered = sum(n * num_slots(task, p) for n, p in zip(clients, history_lengths, strict=True))
    return "dense" if dense <= GATHERED_ROW_COST * gathered else "gathered"


def client_bytes(task: Task, plan: str, history_length: int) -> int:
    """Estimate of the working bytes of one client of a chunk."""
    config, num_views = task.config.federation, len(task.model.fusion.names)
    item_table = task.model.num_items * task.model.width if task.model.backbone.item_rows else 0
    if plan == "dense":
        return 4 * ((config.local_epochs + 6) * task.model.num_items + item_table)
    row = task.model.width * (4 * num_views + 6) + config.local_epochs
    return 4 * (num_slots(task, history_length) * row + item_table)


def chunk_size(task: Task, plan: str, history_length: int) -> int:
    """How many clients are trained at once."""
    if task.config.federation.chunk:
        return task.config.federation.chunk
    return max(1, CHUNK_BYTES // client_bytes(task, plan, history_length))


def in_chunks(update: LocalUpdate, chunk: int) -> LocalUpdate:
    """The same update, on at most `chunk` clients at a time; the uploads are summed."""

    def chunked(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> LocalResult:
        num_clients = alpha.shape[0]
        if num_clients <= chunk:
            return update(broadcast, cohort, alpha, private, key)
        num_chunks = -(-num_clients // chunk)
        # Even chunks need the least padding; padding rows are absent clients.
        size = -(-num_clients // num_chunks)
        missing = num_chunks * size - num_clients

        def split(leaf: jax.Array) -> jax.Array:
            if missing:
                leaf = jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
            return leaf.reshape(num_chunks, size, *leaf.shape[1:])

        def step(total: Upload, inputs: tuple[Cohort, jax.Array, PyTree]):
            result = update(broadcast, *inputs, key)
            total = jax.tree.map(jnp.add, total, result.upload)
            return total, (result.private, result.loss, result.clipped, result.bad_leaf)

        zeros = jax.tree.map(jnp.zeros_like, Upload(broadcast.views, broadcast.head))
        upload, results = jax.lax.scan(step, zeros, jax.tree.map(split, (cohort, alpha, private)))
        merge = lambda leaf: leaf.reshape(num_chunks * size, *leaf.shape[2:])[:num_clients]
        rows, loss, clipped, bad_leaf = jax.tree.map(merge, results)
        return LocalResult(rows, upload, loss, clipped, bad_leaf)

    return chunked


def server_numbers(server: ServerState) -> PyTree:
    """What of the server has to be finite, in the order in which `bad_leaf` counts leaves."""
    return {"shared": server.shared, "optimizer": server.optimizer}


def make_round(task: Task, plan: str) -> RoundFunction:
    """The round function: (server, private rows, cohorts, features, rates) -> one round on.

    `private` and `cohorts` are tuples of equal length, one entry a bucket of clients.
    Guarantees: an absent client's private rows are unchanged to the bit; no private leaf
    is uploaded; if any number turns out non-finite, server and private rows are returned
    unchanged and `RoundMetrics.finite` is False. Pure; jit it.
    """
    fusion = task.model.fusion
    make_update = {"dense": make_dense_update, "gathered": make_gathered_update}[plan]
    update = make_update(task)
    privacy = task.config.privacy

    def round_fn(server, private, cohorts, features, rates):
        shared = server.shared
        views, pull_back = jax.vjp(
            lambda items, gamma: fusion.views(gamma, items, features),
            shared["items"],
            shared["fusion"],
        )
        broadcast = Broadcast(views, shared["head"], server.round, rates)
        key = stream(server.key, LOCAL, server.round)
        present = jnp.concatenate([cohort.present for cohort in cohorts])
        weight = jnp.concatenate([cohort.weight for cohort in cohorts])
        alpha = normalised_weights(weight, present)

        results, start = [], 0
        for cohort, rows in zip(cohorts, private, strict=True):
            size = cohort.present.shape[0]
            run = in_chunks(update, chunk_size(task, plan, cohort.histories.item.shape[1]))
            results.append(run(broadcast, cohort, alpha[start : start + size], rows, key))
            start += size

        mean = jax.tree.map(lambda *uploads: sum(uploads), *[r.upload for r in results])
        mean = add_noise(
            stream(server.key, NOISE, server.round),
            mean,
            alpha,
            privacy.noise_multiplier * privacy.clip_norm,
        )
        by_items, by_fusion = pull_back(mean.views)
        gradient = {"items": by_items, "fusion": by_fusion, "head": mean.head}
        optimizer = server_optimizer(task.config.federation.server_optimizer, rates)
        step, optimizer_state = optimizer.update(gradient, server.optimizer, shared)
        stepped = server._replace(
            round=server.round + 1,
            shared=optax.apply_updates(shared, step),
            optimizer=optimizer_state,
        )

        bad_leaf = jnp.concatenate([r.bad_leaf for r in results])
        bad = present & (bad_leaf >= 0)
        worst = jnp.argmax(bad)
        bad_leaf = jnp.where(bad[worst], bad_leaf[worst], trees.bad_leaf(server_numbers(stepped)))
        finite = bad_leaf < 0
        client = jnp.concatenate([cohort.histories.client for cohort in cohorts])
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        participants = jnp.sum(present)
        answered = jnp.maximum(participants, 1)
        metrics = RoundMetrics(
            loss=sum(jnp.sum(r.loss) for r in results) / answered,
            participants=participants,
            clipped=jnp.sum(present & jnp.concatenate([r.clipped for r in results])) / answered,
            finite=finite,
            bad_client=jnp.where(bad[worst], client[worst], -1),
            bad_leaf=bad_leaf,
        )
        kept_key = server.key
        new_server = keep(stepped._replace(key=None), server._replace(key=None))
        new_private = tuple(keep(r.private, rows) for r, rows in zip(results, private, strict=True))
        return new_server._replace(key=kept_key), new_private, metrics

    return round_fn
