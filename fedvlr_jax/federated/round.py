"""One federated round: broadcast, local epochs, uplink, reduce, one server step.

Algorithm 1 of the paper, with the identity that makes it cheap. Within a round the ID
table D and the operators gamma stay at the broadcast value, and the pull-back through
the operators g is linear, so

    sum_u alpha_u grad_{D,gamma} J_u  =  VJP_g( sum_u alpha_u grad_F J_u ):

a client needs the views F and uploads their gradient only; the server pulls the sum
back through g once. The `Aggregator` defines the steps between the uploads and that sum. A round
works on cohort-sized arrays only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedvlr_jax import trees
from fedvlr_jax.attacks import Seen
from fedvlr_jax.federated.chunking import make_write_back, map_chunks
from fedvlr_jax.federated.devices import over_devices, replicate
from fedvlr_jax.federated.groups import preferences, regrouped
from fedvlr_jax.federated.local import Broadcast, LocalInput, Task
from fedvlr_jax.federated.plans import PLANS, chunk_size
from fedvlr_jax.federated.popular import announced
from fedvlr_jax.federated.separate_compilation import compiled_alone
from fedvlr_jax.federated.server_optimizer import server_step
from fedvlr_jax.federated.streams import ATTACK, CLIP_SHARE, LOCAL, NOISE, RING_NOISE, stream
from fedvlr_jax.federated.trained import TrainCohort, Trained
from fedvlr_jax.types import Array, Cohort, PyTree, Rates, RoundMetrics, ServerState
from fedvlr_jax.uplink import JoinedUploads, Needs, Upload, Uploads

RoundFunction = Callable[
    [ServerState, tuple[PyTree, ...], tuple[Cohort, ...], Mapping[str, jax.Array], Rates],
    tuple[ServerState, tuple[PyTree, ...], RoundMetrics],
]


class Reports(NamedTuple):
    """The reports of the clients beside their uploads; all [K]."""

    client: Array
    responded: Array
    loss: Array
    clipped: Array
    bad_leaf: Array


class Received(NamedTuple):
    """The clients' results of a round.

    Attributes:
      upload: the sum of the uploads; for a rule that needs all of them the uploads, [K] clients.
      alpha: the weight of each client [K], in the order of the uploads and of `reports`.
    """

    upload: Upload | Uploads
    alpha: jax.Array
    reports: Reports


class Opened(NamedTuple):
    """An opened round.

    Attributes:
      pull_back: the pull-back of a gradient by the views through the operators: [I, G, d] -> (the
        gradient by the ID table, that by the operators).
    """

    broadcast: Broadcast
    pull_back: Callable[[jax.Array], tuple[PyTree, PyTree]]


def make_broadcast(
    task: Task, plan: str, views: jax.Array, server: ServerState, rates: Rates
) -> Broadcast:
    """The server's broadcast to the clients of a plan."""
    make_cache = functools.partial(PLANS[plan].view_cache, task)
    view_cache = compiled_alone(server.round >= 0, make_cache, views)
    head, uplink, popular = server.shared["head"], server.uplink, announced(server, views)[0]
    groups = preferences(task.config, server)
    return Broadcast(views, head, server.round, rates, uplink, view_cache, popular, groups)


def open_round(
    task: Task, plan: str, server: ServerState, features: Mapping[str, jax.Array], rates: Rates
) -> Opened:
    """The server computes the views of all items, and broadcasts them."""
    shared = server.shared
    forward = lambda *inputs: jax.vjp(
        lambda items, gamma: task.model.fusion.views(gamma, items, features), *inputs
    )
    views, pull_back = compiled_alone(server.round >= 0, forward, shared["items"], shared["fusion"])
    return Opened(make_broadcast(task, plan, views, server, rates), pull_back)


def make_train(task: Task, plan: str) -> TrainCohort:
    """The local epochs of all clients of a chunk, and the uplink's weights on their uploads."""
    update, (uplink, reduce, *_) = PLANS[plan].make_update(task), task.aggregator
    compress = task.aggregator.compress

    def train(broadcast: Broadcast, clients: LocalInput, key: jax.Array) -> Trained:
        cohort, alpha, private = clients
        known = uplink.needs == Needs.SUM
        if known:
            # A factor that does not depend on a norm joins the weight, so any plan can apply it.
            factor, clipped = uplink.weigh(None, cohort, broadcast.uplink)
            alpha = factor * alpha
        private = dict(private)
        residual = private.pop("residual", None)
        result = update(broadcast, LocalInput(cohort, alpha, private), key)
        trained, uploads = result.private, result.uploads
        if isinstance(uploads, Uploads):
            if not known:
                factor, clipped = uplink.weigh(uploads.norms(), cohort, broadcast.uplink)
            if not known or reduce.combine is not None:
                uploads = uploads.scaled(factor)
            if compress is not None:
                numbers = jnp.asarray(cohort.histories.client)
                uploads, residual = compress.sent(key, numbers, uploads, residual)
            if reduce.encode is not None:
                client, own = cohort.histories.client, jax.random.fold_in(key, RING_NOISE)
                uploads, clamped = reduce.encode(uploads, alpha, client, own)
                clipped |= clamped
            elif reduce.combine is None:
                uploads = uploads.total(alpha)
        if residual is not None:
            trained = {**trained, "residual": residual}
        return Trained(trained, uploads, result.loss, clipped, result.bad_leaf)

    return lambda broadcast, *rest: compiled_alone(broadcast.round >= 0, train, broadcast, *rest)


def client_weights(task: Task, cohorts: Sequence[Cohort], mesh: Mesh | None) -> jax.Array:
    """alpha [K] over all cohorts, the same to the bit on any number of devices."""
    responded = jnp.concatenate([cohort.responded for cohort in cohorts])
    weight = jnp.concatenate([cohort.weight for cohort in cohorts])
    return replicate(task.aggregator.reduce.weights(weight, responded), mesh)


def close_round(
    task: Task, server: ServerState, opened: Opened, received: Received, mesh: Mesh | None
) -> tuple[ServerState, RoundMetrics]:
    """The server's step on the sum of the uploads, or on the result of the rule.

    If no client responded, only the round's number changes: momentum and decay are part of a step,
    and there is no gradient (but see `Noise.always`). If a number is not finite, nothing changes.

    Returns:
      The server's state after the round, and the round's metrics.
    """
    uplink, reduce, noise, make_optimizer, attack, _ = task.aggregator
    views, rates = opened.broadcast.views, opened.broadcast.rates
    upload, alpha, reports = received
    memory, honest = server.attack, reports.responded
    if attack is not None:
        key = stream(server.key, ATTACK, server.round)
        assert isinstance(upload, Uploads)
        hostile = attack.hostile(reports.client, reports.responded)
        seen = Seen(views, server.round, upload, hostile, key)
        upload, memory = compiled_alone(server.round >= 0, attack.replace, seen, memory)
        honest &= ~hostile
        reports = reports._replace(loss=jnp.where(honest, reports.loss, 0.0))

    def step(given, pull_back, shared, states, rates):
        upload, alpha, responded = given
        optimizer_state, uplink_state, noise_state = states
        if reduce.decode is not None:
            upload = reduce.decode(upload, responded)
        if reduce.combine is not None:
            upload = reduce.combine(upload, alpha, responded)
        bound = uplink.bound(uplink_state)
        key = stream(server.key, NOISE, server.round)
        mean, noise_state = noise.next(key, upload, alpha, bound, noise_state)
        grad_items, grad_fusion = pull_back(mean.views)
        gradient = {"items": grad_items, "fusion": grad_fusion, "head": mean.head}
        return server_step(make_optimizer(rates), gradient, optimizer_state, shared), noise_state

    states = server.optimizer, server.uplink, server.noise
    given = upload, alpha, reports.responded
    operands = given, opened.pull_back, server.shared, states, rates
    after, noise_state = compiled_alone(server.round >= 0, step, *operands)

    metrics = _metrics(server.round, after, reports, honest, mesh)
    finite = metrics.finite
    share_key = stream(server.key, CLIP_SHARE, server.round)
    uplink_state = uplink.next_state(share_key, server.uplink, reports.clipped, reports.responded)
    steps = finite if noise.always else finite & jnp.any(reports.responded)
    names = "shared", "optimizer", "uplink", "attack", "noise"
    new = dict(zip(names, (*after, uplink_state, memory, noise_state), strict=True))
    chosen = trees.select(steps, new, {name: getattr(server, name) for name in names})
    popular = trees.select(finite, announced(server, views)[1], server.popular)
    number = server.round + finite.astype(jnp.int32)
    return server._replace(round=number, popular=popular, **chosen), metrics


def _metrics(
    round_number: jax.Array,
    after: tuple[PyTree, PyTree],
    reports: Reports,
    honest: Array,
    mesh: Mesh | None,
) -> RoundMetrics:
    """The metrics of a round.

    Args:
      after: the server's arrays after its step, as `server_numbers` takes them.
      honest: bool [K], the clients that the metrics are about: they responded, and are honest.
    """
    bad = reports.responded & (reports.bad_leaf >= 0)
    worst = jnp.argmax(bad)
    server_leaf = trees.bad_leaf(server_numbers(*after))
    bad_leaf = jnp.where(bad[worst], reports.bad_leaf[worst], server_leaf)
    finite = bad_leaf < 0
    participants = jnp.sum(honest)
    divisor = jnp.maximum(participants, 1)
    loss = compiled_alone(round_number >= 0, jnp.sum, replicate(reports.loss, mesh))
    return RoundMetrics(
        loss=loss / divisor.astype(loss.dtype),
        participants=participants,
        clipped=jnp.sum(honest & reports.clipped) / divisor,
        finite=finite,
        bad_client=jnp.where(bad[worst], reports.client[worst], -1),
        bad_leaf=bad_leaf,
    )


def server_numbers(shared: PyTree, optimizer: PyTree) -> PyTree:
    """The server's arrays that must be finite, in the order in which `bad_leaf` counts leaves."""
    return {"shared": shared, "optimizer": optimizer}


def join_buckets(uploads: Sequence[Upload | Uploads]) -> Upload | Uploads:
    """The sum of the buckets' sums, or the uploads of all buckets, joined in their order."""
    if isinstance(uploads[0], Uploads):
        return JoinedUploads.of(uploads)  # type: ignore[arg-type]
    return jax.tree.map(lambda *parts: sum(parts), *uploads)


def make_round(task: Task, plan: str, mesh: Mesh | None = None) -> RoundFunction:
    """The round function: (server, private rows, cohorts, features, rates) -> one round on.

    `private` and `cohorts` are tuples of equal length, one entry per bucket of clients. With a
    mesh, their clients are spread over it, and the server's state is on every device.

    Guarantees: an absent client's private rows are unchanged to the bit; no private leaf
    is uploaded; if any number is not finite, server and private rows are returned
    unchanged and `RoundMetrics.finite` is False. The function is pure; jit it.
    """
    train, reduce = make_train(task, plan), task.aggregator.reduce
    at_once = lambda cohort: chunk_size(task, plan, cohort.histories.item.shape[1])
    chunked = lambda cohort: map_chunks(train, at_once(cohort), reduce.sum_type)

    def round_fn(server, private, cohorts, features, rates):
        opened = open_round(task, plan, server, features, rates)
        broadcast = opened.broadcast
        key = stream(server.key, LOCAL, server.round)
        alpha = client_weights(task, cohorts, mesh)

        results, start = [], 0
        for cohort, rows in zip(cohorts, private, strict=True):
            size = cohort.responded.shape[0]
            run = over_devices(chunked(cohort), mesh, exact=reduce.exact)
            clients = LocalInput(cohort, alpha[start : start + size], rows)
            results.append(run(broadcast, clients, key))
            start += size

        upload = join_buckets([result.upload for result in results])
        join = lambda leaf, buckets: jnp.concatenate([leaf(bucket) for bucket in buckets])
        reports = Reports(
            client=join(lambda cohort: cohort.histories.client, cohorts),
            responded=join(lambda cohort: cohort.responded, cohorts),
            loss=join(lambda result: result.loss, results),
            clipped=join(lambda result: result.clipped, results),
            bad_leaf=join(lambda result: result.bad_leaf, results),
        )
        received = Received(upload, alpha, reports)
        new_server, metrics = close_round(task, server, opened, received, mesh)
        new_server = regrouped(task, server, new_server, broadcast, received, features, mesh)
        new_private = tuple(
            make_write_back(plan, at_once(cohort), mesh)(
                broadcast, result.private, rows, cohort.responded & metrics.finite
            )
            for cohort, result, rows in zip(cohorts, results, private, strict=True)
        )
        return new_server, new_private, metrics

    return round_fn
