"""One federated round: broadcast, local epochs, uplink, weighted sum, one server step.

Algorithm 1 of the paper, with the identity that makes it cheap. Within a round the ID
table D and the operators gamma stay at the broadcast value, and the pull-back through
the operators g is linear, so

    sum_u alpha_u grad_{D,gamma} J_u  =  VJP_g( sum_u alpha_u grad_F J_u ):

a client needs the views F and uploads their gradient alone; the server pulls the sum
back through g once. The round sees cohort-sized arrays only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fedvlr_jax import trees
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.aggregation import normalised_weights, server_optimizer
from fedvlr_jax.federated.catalogue import fits_catalogue, make_catalogue_update
from fedvlr_jax.federated.dense import fits_dense, make_dense_update
from fedvlr_jax.federated.devices import (
    compiled_alone,
    on_each_device,
    on_every_device,
    over_devices,
)
from fedvlr_jax.federated.factored import (
    factored_of_views,
    fits_factored,
    make_factored_update,
    settle_factored,
)
from fedvlr_jax.federated.gathered import make_gathered_update, num_slots
from fedvlr_jax.federated.local import Broadcast, LocalResult, LocalUpdate, Settle, Task, Upload
from fedvlr_jax.federated.participation import LOCAL, NOISE, stream
from fedvlr_jax.federated.privacy import add_noise
from fedvlr_jax.types import Array, Cohort, PyTree, Rates, RoundMetrics, ServerState

# A gathered row costs about this many times a row of the dense plan's matrix products
# (gather, batched small products, scatter), as measured by benchmarks/rounds.
GATHERED_ROW_COST = 8.0

# Bytes that the working arrays of one chunk of clients may take.
CHUNK_BYTES = 1 << 30
# The same for plans that pass several times over [clients, I, d] on a CPU: what stays in its
# cache from one pass to the next.
CACHE_BYTES = {"catalogue": 1 << 25, "factored": 1 << 26}


class Plan(NamedTuple):
    """A way to execute local epochs.

    Attributes:
      fits: which tasks it can train. make_update: its update of a chunk.
      settle: makes the private rows of what the update gave, where that is not the rows
        themselves: large ones are then written once, and only in a round that counts.
      of_views: makes `Broadcast.of_views`, where the update asks for it.
    """

    fits: Callable[[Task], bool]
    make_update: Callable[[Task], LocalUpdate]
    settle: Settle | None = None
    of_views: Callable[[Task, jax.Array], PyTree] = lambda task, views: None


# The first that fits is taken, but for dense, which has to be worth it.
PLANS = {
    "dense": Plan(fits_dense, make_dense_update),
    "factored": Plan(fits_factored, make_factored_update, settle_factored, factored_of_views),
    "catalogue": Plan(fits_catalogue, make_catalogue_update),
    "gathered": Plan(lambda task: True, make_gathered_update),
}

RoundFunction = Callable[
    [ServerState, tuple[PyTree, ...], tuple[Cohort, ...], Mapping[str, jax.Array], Rates],
    tuple[ServerState, tuple[PyTree, ...], RoundMetrics],
]


def choose_plan(task: Task, history_lengths: Sequence[int], clients: Sequence[int]) -> str:
    """A name of PLANS: what --plan asks for, or by the rows that each would work on in an epoch.

    Dense works on clients * I rows, gathered on clients * M, each M-row at GATHERED_ROW_COST;
    where dense does not fit, the first plan that does.
    `history_lengths` are the padded lengths of the buckets, `clients` their sizes.

    Raises:
      InputError: the plan that was asked for cannot train these clients.
    """
    asked = task.config.federation.plan
    able = [name for name, plan in PLANS.items() if plan.fits(task)]
    if asked not in ("auto", *able):
        raise InputError(
            f"--plan={asked}: cannot train --backbone={task.config.model.backbone} with these "
            f"flags; those that can are {', '.join(able)}, and auto chooses"
        )
    if asked != "auto":
        return asked
    if able[0] != "dense":
        return able[0]
    dense = sum(clients) * task.model.num_items
    gathered = sum(n * num_slots(task, p) for n, p in zip(clients, history_lengths, strict=True))
    return "dense" if dense <= GATHERED_ROW_COST * gathered else "gathered"


def client_bytes(task: Task, plan: str, history_length: int) -> int:
    """Estimate of the working bytes of one client of a chunk."""
    config, num_views = task.config.federation, len(task.model.fusion.names)
    # Its rows as they came, as they go, and their gradient.
    rows = 3 * trees.num_bytes(jax.eval_shape(task.model.init_private, jax.random.key(0)))
    if plan == "dense":
        return 4 * (config.local_epochs + 6) * task.model.num_items + rows
    if plan == "catalogue":
        # Its item vectors, as they are and as mapped, and their gradient.
        return 4 * 6 * task.model.num_items * task.model.width + rows
    if plan == "factored":
        # Its table with and without the negatives' rows, and what is known of each item by epoch
        # and view.
        coefficients = (config.local_epochs + 4) * (num_views + 1)
        return 4 * task.model.num_items * (2 * task.model.width + coefficients) + rows
    slot = task.model.width * (4 * num_views + 6) + config.local_epochs
    return 4 * num_slots(task, history_length) * slot + rows


def chunk_size(task: Task, plan: str, history_length: int) -> int:
    """How many clients are trained at once.

    As many as CHUNK_BYTES take (on a CPU CACHE_BYTES, for plans that it names), or a quarter of
    --memory_budget_gb where that is less: the peak of a round is then the state plus one chunk,
    whatever the cohort.
    """
    if task.config.federation.chunk:
        return task.config.federation.chunk
    most = CHUNK_BYTES
    if jax.default_backend() == "cpu":
        most = CACHE_BYTES.get(plan, most)
    budget = task.config.run.memory_budget_gb * 1e9 / 4 or most
    return int(max(1, min(budget, most) // client_bytes(task, plan, history_length)))


def chunk_bytes(task: Task, plan: str, history_length: int, clients: int) -> int:
    """Estimate of the working bytes of the largest chunk among `clients`."""
    at_once = min(clients, chunk_size(task, plan, history_length))
    return at_once * client_bytes(task, plan, history_length)


def even_chunks(num_clients: int, at_once: int) -> tuple[int, int]:
    """(number of chunks, clients in each): as even as can be, for the least padding.

    With none where somewhat smaller chunks allow it: to pad the clients' rows is to copy them.
    """
    count = -(-num_clients // at_once)
    for more in range(count, 2 * count):
        if num_clients % more == 0:
            return more, num_clients // more
    return count, -(-num_clients // count)


def in_chunks(update: LocalUpdate, chunk: int) -> LocalUpdate:
    """The same update, on at most `chunk` clients at a time; the uploads are summed."""

    def chunked(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> LocalResult:
        num_clients = alpha.shape[0]
        if num_clients <= chunk:
            return update(broadcast, cohort, alpha, private, key)
        num_chunks, size = even_chunks(num_clients, chunk)
        # Padding rows are absent clients.
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


class Reports(NamedTuple):
    """What the server hears of each client beside its upload; all [K]."""

    client: Array
    present: Array
    loss: Array
    clipped: Array
    bad_leaf: Array


def make_broadcast(
    task: Task, plan: str, views: jax.Array, server: ServerState, rates: Rates
) -> Broadcast:
    """What the clients of a plan are sent."""
    work_out = functools.partial(PLANS[plan].of_views, task)
    of_views = compiled_alone(server.round >= 0, work_out, views)
    return Broadcast(views, server.shared["head"], server.round, rates, of_views)


def open_round(
    task: Task, plan: str, server: ServerState, features: Mapping[str, jax.Array], rates: Rates
) -> tuple[Broadcast, Callable[[jax.Array], tuple[PyTree, PyTree]]]:
    """What the server sends, and the pull-back of a gradient of the views through the
    operators: [I, G, d] -> (by the ID table, by the operators)."""
    shared = server.shared
    forward = lambda *inputs: jax.vjp(
        lambda items, gamma: task.model.fusion.views(gamma, items, features), *inputs
    )
    views, pull_back = compiled_alone(server.round >= 0, forward, shared["items"], shared["fusion"])
    return make_broadcast(task, plan, views, server, rates), pull_back


def make_update(task: Task, plan: str) -> LocalUpdate:
    """The local epochs of all clients at once, by the plan of that name."""
    update = PLANS[plan].make_update(task)
    return lambda broadcast, *rest: compiled_alone(broadcast.round >= 0, update, broadcast, *rest)


def make_settle(plan: str, chunk: int, mesh: Mesh | None):
    """(broadcast, `LocalResult.private`, rows before, keep bool [K]) -> the rows after a round.

    Those of `keep` are new, the others untouched. At most `chunk` clients are settled at a
    time, each chunk where its rows lie if these are donated.
    """
    settle = PLANS[plan].settle
    if settle is None:
        return lambda broadcast, trained, rows, keep: trees.select(keep, trained, rows)

    def in_place(broadcast: Broadcast, _: tuple[()], clients: PyTree) -> PyTree:
        moved, rows, keep = clients
        num_clients = keep.shape[0]
        num_chunks, size = even_chunks(num_clients, chunk)

        def step(number: jax.Array, rows: PyTree) -> PyTree:
            # The last chunk may begin among clients that are settled already.
            start = jnp.minimum(number * size, num_clients - size)
            take = lambda of: jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), of
            )
            before = take(rows)
            after = compiled_alone(broadcast.round >= 0, settle, broadcast, take(moved), before)
            new = start + jnp.arange(size) >= number * size
            after = trees.select(take(keep) & new, after, before)
            put = jax.lax.dynamic_update_slice_in_dim
            return jax.tree.map(lambda leaf, part: put(leaf, part, start, 0), rows, after)

        return jax.lax.fori_loop(0, num_chunks, step, rows)

    run = on_each_device(in_place, mesh)
    return lambda broadcast, moved, rows, keep: run(broadcast, (), (moved, rows, keep))


def client_weights(cohorts: Sequence[Cohort], mesh: Mesh | None) -> jax.Array:
    """alpha [K] over all cohorts, the same to the bit on any number of devices."""
    present = jnp.concatenate([cohort.present for cohort in cohorts])
    weight = jnp.concatenate([cohort.weight for cohort in cohorts])
    return on_every_device(normalised_weights(weight, present), mesh)


def close_round(
    task: Task,
    server: ServerState,
    pull_back: Callable[[jax.Array], tuple[PyTree, PyTree]],
    upload: Upload,
    alpha: jax.Array,
    reports: Reports,
    rates: Rates,
    mesh: Mesh | None,
) -> tuple[ServerState, RoundMetrics]:
    """The server's step on the summed upload.

    Where nobody answered, only the round's number moves: momentum and decay of the optimizer are
    part of a step, and there is nothing to step by. If a number is not finite, nothing moves.
    """
    privacy = task.config.privacy
    deviation = privacy.noise_multiplier * privacy.clip_norm

    def step(upload, alpha, pull_back, shared, optimizer_state, rates):
        mean = add_noise(stream(server.key, NOISE, server.round), upload, alpha, deviation)
        by_items, by_fusion = pull_back(mean.views)
        gradient = {"items": by_items, "fusion": by_fusion, "head": mean.head}
        optimizer = server_optimizer(task.config.federation.server_optimizer, rates)
        change, optimizer_state = optimizer.update(gradient, optimizer_state, shared)
        return optax.apply_updates(shared, change), optimizer_state

    before = server.shared, server.optimizer
    after = compiled_alone(server.round >= 0, step, upload, alpha, pull_back, *before, rates)

    bad = reports.present & (reports.bad_leaf >= 0)
    worst = jnp.argmax(bad)
    of_server = trees.bad_leaf(server_numbers(*after))
    bad_leaf = jnp.where(bad[worst], reports.bad_leaf[worst], of_server)
    finite = bad_leaf < 0
    participants = jnp.sum(reports.present)
    answered = jnp.maximum(participants, 1)
    metrics = RoundMetrics(
        loss=compiled_alone(server.round >= 0, jnp.sum, on_every_device(reports.loss, mesh))
        / answered,
        participants=participants,
        clipped=jnp.sum(reports.present & reports.clipped) / answered,
        finite=finite,
        bad_client=jnp.where(bad[worst], reports.client[worst], -1),
        bad_leaf=bad_leaf,
    )
    shared, optimizer_state = trees.select(finite & (participants > 0), after, before)
    return ServerState(server.round + finite, server.key, shared, optimizer_state), metrics


def server_numbers(shared: PyTree, optimizer: PyTree) -> PyTree:
    """What of the server has to be finite, in the order in which `bad_leaf` counts leaves."""
    return {"shared": shared, "optimizer": optimizer}


def make_round(task: Task, plan: str, mesh: Mesh | None = None) -> RoundFunction:
    """The round function: (server, private rows, cohorts, features, rates) -> one round on.

    `private` and `cohorts` are tuples of equal length, one entry a bucket of clients. With a
    mesh, their clients lie spread over it, and the server's state on every device.
    Guarantees: an absent client's private rows are unchanged to the bit; no private leaf
    is uploaded; if any number turns out non-finite, server and private rows are returned
    unchanged and `RoundMetrics.finite` is False. Pure; jit it.
    """
    update = make_update(task, plan)
    exact = task.config.federation.aggregation == "int32"
    at_once = lambda cohort: chunk_size(task, plan, cohort.histories.item.shape[1])

    def round_fn(server, private, cohorts, features, rates):
        broadcast, pull_back = open_round(task, plan, server, features, rates)
        key = stream(server.key, LOCAL, server.round)
        alpha = client_weights(cohorts, mesh)

        results, start = [], 0
        for cohort, rows in zip(cohorts, private, strict=True):
            size = cohort.present.shape[0]
            run = over_devices(in_chunks(update, at_once(cohort)), mesh, exact=exact)
            results.append(run(broadcast, cohort, alpha[start : start + size], rows, key))
            start += size

        upload = jax.tree.map(lambda *uploads: sum(uploads), *[r.upload for r in results])
        join = lambda part, whole: jnp.concatenate([part(x) for x in whole])
        reports = Reports(
            client=join(lambda cohort: cohort.histories.client, cohorts),
            present=join(lambda cohort: cohort.present, cohorts),
            loss=join(lambda result: result.loss, results),
            clipped=join(lambda result: result.clipped, results),
            bad_leaf=join(lambda result: result.bad_leaf, results),
        )
        new_server, metrics = close_round(
            task, server, pull_back, upload, alpha, reports, rates, mesh
        )
        new_private = tuple(
            make_settle(plan, at_once(cohort), mesh)(
                broadcast, result.private, rows, cohort.present & metrics.finite
            )
            for cohort, result, rows in zip(cohorts, results, private, strict=True)
        )
        return new_server, new_private, metrics

    return round_fn
