"""Buffered asynchronous rounds (FedBuff, Nguyen et al. 2022): one server step of stale uploads.

Each client trained on the version of the server that it downloaded, s steps before the step that
takes its upload. The server keeps its last S = --max_staleness + 1 versions
(`ServerState.versions`) and steps by the gradient

    sum_u alpha_u (1 + s_u)^(-1/2) VJP_v(upload_u),    v = round - s_u,

with alpha as in a synchronous round: stale uploads shorten the step. The clients of a step are
laid out in slices of equal capacity. A slice has clients of one version, so it needs one forward
pass and one pull-back through the operators. Slice 0 has the clients of the newest version and
closes the step like a synchronous round: a step with only slice 0 has the bits of such a round.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.federated.chunking import make_write_back, map_chunks
from fedvlr_jax.federated.cohort_rows import (
    Population,
    gather_rows,
    gather_sampled,
    scatter_rows,
)
from fedvlr_jax.federated.devices import client_sharding, constrain, over_devices
from fedvlr_jax.federated.local import LocalInput, Task
from fedvlr_jax.federated.participation import make_cohorts
from fedvlr_jax.federated.plans import chunk_size
from fedvlr_jax.federated.round import (
    Received,
    Reports,
    client_weights,
    close_round,
    join_buckets,
    make_train,
    open_round,
)
from fedvlr_jax.federated.separate_compilation import compiled_alone
from fedvlr_jax.federated.streams import LOCAL, NOISE, stream
from fedvlr_jax.types import Cohort, Histories, PyTree, RoundMetrics, ServerState
from fedvlr_jax.uplink import Upload


def first_versions(config: Config, shared: PyTree, uplink: PyTree) -> PyTree:
    """`ServerState.versions` before the first step; () without --buffer.

    Leaves are [S, ...]; version v is at v mod S.
    """
    if not config.fleet.buffer:
        return ()
    count = config.fleet.max_staleness + 1
    repeat = lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf)))
    return jax.tree.map(repeat, {"shared": shared, "uplink": uplink})


def staleness_weight(staleness: jax.Array) -> jax.Array:
    """float32: (1 + s)^(-1/2) for s server steps; exactly 1 for s = 0."""
    return 1.0 / jnp.sqrt(1.0 + staleness.astype(jnp.float32))


class Gradient(NamedTuple):
    """The sum over the slices so far: the gradients of the ID table, the operators and the head."""

    items: PyTree
    fusion: PyTree
    head: PyTree


def _with_earlier(
    pull_back: Callable[..., Any], earlier: Gradient, views: jax.Array
) -> tuple[PyTree, PyTree]:
    grad_items, grad_fusion = pull_back(views)
    add = lambda a, b: jax.tree.map(jnp.add, a, b)
    return add(grad_items, earlier.items), add(grad_fusion, earlier.fusion)


class SliceResult(NamedTuple):
    """The result of one slice.

    Attributes:
      private: rows after training, of each bucket. upload: the sum, an `Upload`.
      alpha: [sum of the capacities]. loss, clipped, bad_leaf: of each bucket [capacity].
    """

    private: tuple[PyTree, ...]
    upload: Any
    alpha: jax.Array
    loss: tuple[jax.Array, ...]
    clipped: tuple[jax.Array, ...]
    bad_leaf: tuple[jax.Array, ...]


def _make_slice(task: Task, plan: str, mesh: Mesh | None, weight: str) -> Callable[..., Any]:
    """(version, broadcast, `_Clients` and private rows of a slice) -> SliceResult."""
    train, reduce = make_train(task, plan), task.aggregator.reduce
    federation = task.config.federation

    def train_slice(version, broadcast, clients, private) -> SliceResult:
        histories, sampled, alpha = clients
        key = stream(version.key, LOCAL, version.round)
        cohorts = make_cohorts(version, histories, sampled, weight, federation)
        results, after = [], []
        for cohort, own, rows in zip(cohorts, alpha, private, strict=True):
            at_once = chunk_size(task, plan, cohort.histories.item.shape[1])
            run = over_devices(map_chunks(train, at_once), mesh, exact=reduce.exact)
            result = run(broadcast, LocalInput(cohort, own, rows), key)
            write_back = make_write_back(plan, at_once, mesh)
            after.append(write_back(broadcast, result.private, rows, cohort.responded))
            results.append(result)
        return SliceResult(
            private=tuple(after),
            upload=cast("Upload", join_buckets([result.upload for result in results])),
            alpha=jnp.concatenate(alpha),
            loss=tuple(result.loss for result in results),
            clipped=tuple(result.clipped for result in results),
            bad_leaf=tuple(result.bad_leaf for result in results),
        )

    return train_slice


class _Clients(NamedTuple):
    """The clients of a step: for each bucket [J * capacity, ...], slice after slice."""

    histories: tuple[Histories, ...]
    sampled: tuple[jax.Array, ...]
    alpha: tuple[jax.Array, ...]


class _Progress(NamedTuple):
    """The results of the slices so far.

    Attributes:
      gradient: their sum. private: rows of all clients of the step.
      loss, clipped, bad_leaf: for each bucket, the values of all clients of the step.
    """

    gradient: Gradient
    private: tuple[PyTree, ...]
    loss: tuple[jax.Array, ...]
    clipped: tuple[jax.Array, ...]
    bad_leaf: tuple[jax.Array, ...]

    def with_clients(self, result: SliceResult, number: Any, count: int) -> _Progress:
        """The progress after slice `number` of `count`."""

        def put(leaf: jax.Array, new: jax.Array) -> jax.Array:
            at = number * (leaf.shape[0] // count)
            return jax.lax.dynamic_update_slice_in_dim(leaf, new, at, 0)

        names = ("private", "loss", "clipped", "bad_leaf")
        own = {name: getattr(self, name) for name in names}
        return self._replace(
            **jax.tree.map(put, own, {name: getattr(result, name) for name in names})
        )


def _slice(tree: PyTree, number: Any, count: int, mesh: Mesh | None) -> PyTree:
    """Slice `number` of `count` of each leaf [count * capacity, ...]."""

    def cut(leaf: jax.Array) -> jax.Array:
        size = leaf.shape[0] // count
        return jax.lax.dynamic_slice_in_dim(leaf, number * size, size)

    return constrain(jax.tree.map(cut, tree), client_sharding(mesh))


def _last_slice(sampled: tuple[jax.Array, ...], count: int) -> jax.Array:
    """int32 []: the last slice that has a client; 0 without any."""
    full = [jnp.any(mask.reshape(count, -1), axis=1) for mask in sampled]
    return jnp.max(jnp.where(jnp.stack(full).any(axis=0), jnp.arange(count), 0))


def _begin(server: ServerState, private: tuple[PyTree, ...], sampled: Any) -> _Progress:
    shared = server.shared
    nothing = Gradient(shared["items"], shared["fusion"], shared["head"])
    reports = [
        tuple(jnp.zeros(mask.shape, kind) for mask in sampled)
        for kind in (jnp.float32, bool, jnp.int32)
    ]
    return _Progress(jax.tree.map(jnp.zeros_like, nothing), private, *reports)


def _make_stale(
    task: Task, plan: str, mesh: Mesh | None, train_slice: Callable[..., Any], num_versions: int
) -> Callable[..., Any]:
    """(server, population, clients, staleness [J], slice, progress) -> progress."""
    noise, uplink = task.aggregator.noise, task.aggregator.uplink

    def stale(server, population, clients, staleness, number, progress) -> _Progress:
        count = staleness.shape[0]
        version_number = server.round - staleness[number]
        kept = jax.tree.map(lambda leaf: leaf[version_number % num_versions], server.versions)
        version = server._replace(round=version_number, **kept)
        _, features, rates = population
        broadcast, pull_back = open_round(task, plan, version, features, rates)
        cut = _slice((clients, progress.private), number, count, mesh)
        result = train_slice(version, broadcast, *cut)
        bound = uplink.bound(version.uplink)

        def pulled(upload: Upload, alpha: jax.Array, pull_back: Callable[..., Any]) -> Gradient:
            # The noise is zero here, but --upload_rank projects at this point.
            mean = noise.add(stream(server.key, NOISE, version_number), upload, alpha, bound)
            items, fusion = pull_back(mean.views)
            return Gradient(items, fusion, mean.head)

        operands = result.upload, result.alpha, pull_back
        own = compiled_alone(server.round >= 0, pulled, *operands)
        total = jax.tree.map(jnp.add, progress.gradient, own)
        return progress._replace(gradient=total).with_clients(result, number, count)

    return stale


def make_buffered_round(
    task: Task, plan: str, mesh: Mesh | None, weight: str
) -> Callable[..., Any]:
    """The function of one step; it replaces `round.make_round`.

    (server, private, population, sampled, staleness int32 [J]) -> (server, private, metrics).
    Private rows, the histories of the population and `sampled` are tuples with one entry per
    bucket, [J * capacity, ...], slice after slice. The guarantees are those of `make_round`: the
    rows of clients that are not `sampled` are unchanged to the bit, and if a number is not finite
    nothing changes.
    """
    train_slice = _make_slice(task, plan, mesh, weight)
    stale = _make_stale(task, plan, mesh, train_slice, task.config.fleet.max_staleness + 1)

    def damped(cohorts: Sequence[Cohort], staleness: jax.Array) -> tuple[jax.Array, ...]:
        """alpha of each bucket, times the weight of the staleness."""
        count, start, alpha = staleness.shape[0], 0, []
        whole, factor = client_weights(task, cohorts, mesh), staleness_weight(staleness)
        for cohort in cohorts:
            size = cohort.responded.shape[0]
            own = whole[start : start + size].reshape(count, -1)
            alpha.append((own * factor[:, None]).reshape(-1))
            start += size
        return tuple(alpha)

    def round_fn(
        server: ServerState,
        private: tuple[PyTree, ...],
        population: Population,
        sampled: tuple[jax.Array, ...],
        staleness: jax.Array,
    ) -> tuple[ServerState, tuple[PyTree, ...], RoundMetrics]:
        histories, features, rates = population
        count = staleness.shape[0]
        cohorts = make_cohorts(server, histories, sampled, weight, task.config.federation)
        clients = _Clients(histories, sampled, damped(cohorts, staleness))
        progress = _begin(server, private, sampled)
        if count > 1:
            step = functools.partial(stale, server, population, clients, staleness)
            progress = jax.lax.fori_loop(1, _last_slice(sampled, count) + 1, step, progress)

        opened = open_round(task, plan, server, features, rates)
        cut = _slice((clients, progress.private), 0, count, mesh)
        result = train_slice(server, opened.broadcast, *cut)
        progress, upload = progress.with_clients(result, 0, count), result.upload
        if count > 1:
            earlier = progress.gradient
            upload = upload._replace(head=jax.tree.map(jnp.add, upload.head, earlier.head))
            pull_back = jax.tree_util.Partial(_with_earlier, opened.pull_back, earlier)
            opened = opened._replace(pull_back=pull_back)
        reports = Reports(
            client=jnp.concatenate([history.client for history in histories]),
            responded=jnp.concatenate([cohort.responded for cohort in cohorts]),
            loss=jnp.concatenate(progress.loss),
            clipped=jnp.concatenate(progress.clipped),
            bad_leaf=jnp.concatenate(progress.bad_leaf),
        )
        received = Received(upload, result.alpha, reports)
        after, metrics = close_round(task, server, opened, received, mesh)
        return after, trees.select(metrics.finite, progress.private, private), metrics

    return round_fn


def _remembered(server: ServerState, num_versions: int, ok: jax.Array) -> ServerState:
    """The server after it stored its newest version; unchanged unless `ok`."""
    place = jnp.where(ok, server.round % num_versions, num_versions)
    newest = {"shared": server.shared, "uplink": server.uplink}
    write = lambda kept, new: kept.at[place].set(new, mode="drop")
    return server._replace(versions=jax.tree.map(write, server.versions, newest))


def make_buffered_step(task: Task, plan: str, mesh: Mesh | None, weight: str) -> Callable[..., Any]:
    """(server, private rows of each bucket, population, schedule of the step, ok) -> (server,
    private, metrics): `make_buffered_round` on the clients that the schedule names.

    The schedule is one row of each array of `slices.pack_schedule`. If not `ok`, no client is
    sampled.
    """
    round_fn = make_buffered_round(task, plan, mesh, weight)
    num_versions = task.config.fleet.max_staleness + 1

    def step(server, private, population, schedule, ok):
        *rows, staleness = schedule
        chosen, sampled = gather_sampled(population.histories, rows, ok)
        own = tuple(gather_rows(bucket, row) for bucket, row in zip(private, rows, strict=True))
        own, chosen, sampled = constrain((own, chosen, sampled), client_sharding(mesh))
        clients = population._replace(histories=chosen)
        after, new, metrics = round_fn(server, own, clients, sampled, staleness)
        stored = scatter_rows(private, new, rows)
        return _remembered(after, num_versions, ok), stored, metrics

    return step
