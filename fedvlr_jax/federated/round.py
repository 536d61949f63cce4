"""One federated round: broadcast, local epochs, uplink, reduce, one server step.

Algorithm 1 of the paper, with the identity that makes it cheap. Within a round the ID
table D and the operators gamma stay at the broadcast value, and the pull-back through
the operators g is linear, so

    sum_u alpha_u grad_{D,gamma} J_u  =  VJP_g( sum_u alpha_u grad_F J_u ):

a client needs the views F and uploads their gradient alone; the server pulls the sum
back through g once. What happens between the uploads and that sum is the `Aggregator`'s. The
round sees cohort-sized arrays only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedvlr_jax import trees
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.catalogue import fits_catalogue, make_catalogue_update
from fedvlr_jax.federated.dense import fits_dense, make_dense_update
from fedvlr_jax.federated.devices import (
    compiled_alone,
    on_each_device,
    on_every_device,
    over_devices,
)
from fedvlr_jax.federated.factored import (
    factored_view_cache,
    fits_factored,
    make_factored_update,
    write_back_factored,
)
from fedvlr_jax.federated.gathered import make_gathered_update, num_slots
from fedvlr_jax.federated.local import Broadcast, LocalUpdate, Settle, Task
from fedvlr_jax.federated.participation import ATTACK, CLIP_SHARE, LOCAL, NOISE, stream
from fedvlr_jax.federated.server_optimizer import server_step
from fedvlr_jax.federated.trained import TrainCohort, Trained, join_chunks
from fedvlr_jax.settings import key_of, shapes_of
from fedvlr_jax.types import Array, Cohort, PyTree, Rates, RoundMetrics, ServerState
from fedvlr_jax.uplink import JoinedUploads, Needs, Upload, Uploads

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
      fits: which tasks it can train. gives: what its uploads can be asked.
      make_update: its update of a chunk.
      write_back: makes the private rows of what the update gave, where that is not the rows
        themselves: large ones are then written once, and only in a round that counts.
      view_cache: makes `Broadcast.view_cache`, where the update asks for it.
    """

    fits: Callable[[Task], bool]
    gives: Needs
    make_update: Callable[[Task], LocalUpdate]
    write_back: Settle | None = None
    view_cache: Callable[[Task, jax.Array], PyTree] = lambda task, views: None


# The first that fits is taken, but for dense, which has to be worth it.
PLANS = {
    "dense": Plan(fits_dense, Needs.WHOLE, make_dense_update),
    "factored": Plan(
        fits_factored, Needs.SUM, make_factored_update, write_back_factored, factored_view_cache
    ),
    "catalogue": Plan(fits_catalogue, Needs.SUM, make_catalogue_update),
    "gathered": Plan(lambda task: True, Needs.WHOLE, make_gathered_update),
}

NEEDED = {
    Needs.NORMS: "the norm of each upload (--clip_norm)",
    Needs.WHOLE: "whole uploads (--aggregation, --upload_bits, --upload_rows)",
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
    # Its rows as they came, as they go, and their gradient.
    rows = 3 * trees.num_bytes(shapes_of(task.model.init_private, key_of(0)))
    if task.aggregator.compress is not None:
        # Its upload as an array, with its residual, as kept and as sent.
        rows += 4 * 4 * task.model.num_items * num_views * task.model.width
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
    """Estimate of the working bytes of the largest chunk among `clients`.

    A rule that asks for all uploads at once keeps those of every client, and the inner products
    of all pairs.
    """
    if task.aggregator.reduce.combine is not None:
        return clients * (client_bytes(task, plan, history_length) + 3 * 4 * clients)
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


def in_chunks(train: TrainCohort, chunk: int) -> TrainCohort:
    """The same training, on at most `chunk` clients at a time; sums of uploads are added up."""

    def chunked(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> Trained:
        num_clients = alpha.shape[0]
        if num_clients <= chunk:
            return train(broadcast, cohort, alpha, private, key)
        num_chunks, size = even_chunks(num_clients, chunk)
        # Padding rows are absent clients.
        missing = num_chunks * size - num_clients

        def split(leaf: jax.Array) -> jax.Array:
            if missing:
                leaf = jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
            return leaf.reshape(num_chunks, size, *leaf.shape[1:])

        def step(total: Upload, inputs: tuple[Cohort, jax.Array, PyTree]):
            result = train(broadcast, *inputs, key)
            if isinstance(result.upload, Upload):
                total = jax.tree.map(jnp.add, total, result.upload)
                result = result._replace(upload=())
            return total, result

        zeros = jax.tree.map(jnp.zeros_like, Upload(broadcast.views, broadcast.head))
        total, results = jax.lax.scan(step, zeros, jax.tree.map(split, (cohort, alpha, private)))
        return join_chunks(results, num_clients, total)

    return chunked


class Reports(NamedTuple):
    """What the server hears of each client beside its upload; all [K]."""

    client: Array
    responded: Array
    loss: Array
    clipped: Array
    bad_leaf: Array


def make_broadcast(
    task: Task, plan: str, views: jax.Array, server: ServerState, rates: Rates
) -> Broadcast:
    """What the clients of a plan are sent."""
    work_out = functools.partial(PLANS[plan].view_cache, task)
    view_cache = compiled_alone(server.round >= 0, work_out, views)
    return Broadcast(views, server.shared["head"], server.round, rates, server.uplink, view_cache)


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


def make_train(task: Task, plan: str) -> TrainCohort:
    """The local epochs of all clients at once, and what the uplink and a sum make of them."""
    update, (uplink, reduce, *_) = PLANS[plan].make_update(task), task.aggregator
    compress = task.aggregator.compress

    def train(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> Trained:
        known = uplink.needs == Needs.SUM
        if known:
            # A factor that no norm decides is part of the weight, so that any plan can apply it.
            factor, clipped = uplink.weigh(None, cohort, broadcast.uplink)
            alpha = factor * alpha
        private = dict(private)
        residual = private.pop("residual", None)
        result = update(broadcast, cohort, alpha, private, key)
        trained, uploads = result.private, result.uploads
        if isinstance(uploads, Uploads):
            if not known:
                factor, clipped = uplink.weigh(uploads.norms(), cohort, broadcast.uplink)
            if not known or reduce.combine is not None:
                uploads = uploads.scaled(factor)
            if compress is not None:
                client = cohort.histories.client
                uploads, residual = compress.sent(key, client, uploads, residual)
            if reduce.combine is None:
                uploads = uploads.total(alpha)
        if residual is not None:
            trained = {**trained, "residual": residual}
        return Trained(trained, uploads, result.loss, clipped, result.bad_leaf)

    return lambda broadcast, *rest: compiled_alone(broadcast.round >= 0, train, broadcast, *rest)


def make_write_back(plan: str, chunk: int, mesh: Mesh | None):
    """(broadcast, `Trained.private`, rows before, keep bool [K]) -> the rows after a round.

    Those of `keep` are new, the others untouched. At most `chunk` clients are written back at a
    time, each chunk where its rows lie if these are donated.
    """
    write_back = PLANS[plan].write_back
    if write_back is None:
        return lambda broadcast, trained, rows, keep: trees.select(keep, trained, rows)

    def in_place(broadcast: Broadcast, _: tuple[()], clients: PyTree) -> PyTree:
        moved, rows, keep = clients
        num_clients = keep.shape[0]
        num_chunks, size = even_chunks(num_clients, chunk)

        def step(number: jax.Array, rows: PyTree) -> PyTree:
            # The last chunk may begin among clients that are written back already.
            start = jnp.minimum(number * size, num_clients - size)
            take = lambda of: jax.tree.map(
                lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), of
            )
            before = take(rows)
            after = compiled_alone(broadcast.round >= 0, write_back, broadcast, take(moved), before)
            new = start + jnp.arange(size) >= number * size
            after = trees.select(take(keep) & new, after, before)
            put = jax.lax.dynamic_update_slice_in_dim
            return jax.tree.map(lambda leaf, part: put(leaf, part, start, 0), rows, after)

        return jax.lax.fori_loop(0, num_chunks, step, rows)

    run = on_each_device(in_place, mesh)
    return lambda broadcast, moved, rows, keep: run(broadcast, (), (moved, rows, keep))


def client_weights(task: Task, cohorts: Sequence[Cohort], mesh: Mesh | None) -> jax.Array:
    """alpha [K] over all cohorts, the same to the bit on any number of devices."""
    responded = jnp.concatenate([cohort.responded for cohort in cohorts])
    weight = jnp.concatenate([cohort.weight for cohort in cohorts])
    return on_every_device(task.aggregator.reduce.weights(weight, responded), mesh)


def close_round(
    task: Task,
    server: ServerState,
    pull_back: Callable[[jax.Array], tuple[PyTree, PyTree]],
    views: jax.Array,
    upload: Upload | Uploads,
    alpha: jax.Array,
    reports: Reports,
    rates: Rates,
    mesh: Mesh | None,
) -> tuple[ServerState, RoundMetrics]:
    """The server's step on the sum of the uploads, or on what the rule makes of all of them.

    Where nobody responded, only the round's number moves: momentum and decay of the optimizer are
    part of a step, and there is nothing to step by (but see `Noise.always`). If a number is not
    finite, nothing moves.
    """
    uplink, reduce, noise, make_optimizer, attack, _ = task.aggregator
    memory = server.attack
    if attack is not None:
        key = stream(server.key, ATTACK, server.round)
        seen = reports.client, reports.responded, views, server.round, key, memory
        upload, memory = compiled_alone(server.round >= 0, attack.replace, upload, *seen)

    def step(upload, alpha, responded, pull_back, shared, optimizer_state, uplink_state, rates):
        if reduce.combine is not None:
            upload = reduce.combine(upload, alpha, responded)
        bound = uplink.bound(uplink_state)
        mean = noise.add(stream(server.key, NOISE, server.round), upload, alpha, bound)
        by_items, by_fusion = pull_back(mean.views)
        gradient = {"items": by_items, "fusion": by_fusion, "head": mean.head}
        return server_step(make_optimizer(rates), gradient, optimizer_state, shared)

    before = server.shared, server.optimizer
    operands = upload, alpha, reports.responded, pull_back, *before, server.uplink, rates
    after = compiled_alone(server.round >= 0, step, *operands)

    bad = reports.responded & (reports.bad_leaf >= 0)
    worst = jnp.argmax(bad)
    of_server = trees.bad_leaf(server_numbers(*after))
    bad_leaf = jnp.where(bad[worst], reports.bad_leaf[worst], of_server)
    finite = bad_leaf < 0
    participants = jnp.sum(reports.responded)
    answered = jnp.maximum(participants, 1)
    loss = compiled_alone(server.round >= 0, jnp.sum, on_every_device(reports.loss, mesh))
    metrics = RoundMetrics(
        loss=loss / answered.astype(loss.dtype),
        participants=participants,
        clipped=jnp.sum(reports.responded & reports.clipped) / answered,
        finite=finite,
        bad_client=jnp.where(bad[worst], reports.client[worst], -1),
        bad_leaf=bad_leaf,
    )
    share_key = stream(server.key, CLIP_SHARE, server.round)
    uplink_state = uplink.next_state(share_key, server.uplink, reports.clipped, reports.responded)
    steps = finite if noise.always else finite & (participants > 0)
    shared, optimizer_state, uplink_state, memory = trees.select(
        steps, (*after, uplink_state, memory), (*before, server.uplink, server.attack)
    )
    state = server._replace(
        round=server.round + finite.astype(jnp.int32),
        shared=shared,
        optimizer=optimizer_state,
        uplink=uplink_state,
        attack=memory,
    )
    return state, metrics


def server_numbers(shared: PyTree, optimizer: PyTree) -> PyTree:
    """What of the server has to be finite, in the order in which `bad_leaf` counts leaves."""
    return {"shared": shared, "optimizer": optimizer}


def join_buckets(uploads: Sequence[Upload | Uploads]) -> Upload | Uploads:
    """The sums of the buckets added up, or all their uploads one after the other."""
    if isinstance(uploads[0], Uploads):
        return JoinedUploads.of(uploads)  # type: ignore[arg-type]
    return jax.tree.map(lambda *parts: sum(parts), *uploads)


def make_round(task: Task, plan: str, mesh: Mesh | None = None) -> RoundFunction:
    """The round function: (server, private rows, cohorts, features, rates) -> one round on.

    `private` and `cohorts` are tuples of equal length, one entry a bucket of clients. With a
    mesh, their clients lie spread over it, and the server's state on every device.
    Guarantees: an absent client's private rows are unchanged to the bit; no private leaf
    is uploaded; if any number turns out non-finite, server and private rows are returned
    unchanged and `RoundMetrics.finite` is False. Pure; jit it.
    """
    train, reduce = make_train(task, plan), task.aggregator.reduce
    at_once = lambda cohort: chunk_size(task, plan, cohort.histories.item.shape[1])

    def round_fn(server, private, cohorts, features, rates):
        broadcast, pull_back = open_round(task, plan, server, features, rates)
        key = stream(server.key, LOCAL, server.round)
        alpha = client_weights(task, cohorts, mesh)

        results, start = [], 0
        for cohort, rows in zip(cohorts, private, strict=True):
            size = cohort.responded.shape[0]
            run = over_devices(in_chunks(train, at_once(cohort)), mesh, exact=reduce.exact)
            results.append(run(broadcast, cohort, alpha[start : start + size], rows, key))
            start += size

        upload = join_buckets([result.upload for result in results])
        join = lambda part, whole: jnp.concatenate([part(x) for x in whole])
        reports = Reports(
            client=join(lambda cohort: cohort.histories.client, cohorts),
            responded=join(lambda cohort: cohort.responded, cohorts),
            loss=join(lambda result: result.loss, results),
            clipped=join(lambda result: result.clipped, results),
            bad_leaf=join(lambda result: result.bad_leaf, results),
        )
        new_server, metrics = close_round(
            task, server, pull_back, broadcast.views, upload, alpha, reports, rates, mesh
        )
        new_private = tuple(
            make_write_back(plan, at_once(cohort), mesh)(
                broadcast, result.private, rows, cohort.responded & metrics.finite
            )
            for cohort, result, rows in zip(cohorts, results, private, strict=True)
        )
        return new_server, new_private, metrics

    return round_fn
