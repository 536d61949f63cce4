"""Rounds chunk by chunk, for private rows in a `ClientStore`.

While one chunk of the cohort is trained, the rows of the next are gathered, across rounds too.
The device holds the server's state and a few chunks, whatever the population.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.federated.chunking import make_write_back, zero_sum
from fedvlr_jax.federated.devices import over_devices, padded
from fedvlr_jax.federated.groups import regrouped
from fedvlr_jax.federated.local import Broadcast, LocalInput
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
from fedvlr_jax.federated.store import ClientStore
from fedvlr_jax.federated.streams import LOCAL, stream
from fedvlr_jax.simulation.chunks import Chunk, ChunkedClients, ChunkRows
from fedvlr_jax.simulation.sampling import Sampling
from fedvlr_jax.simulation.setup import Setup
from fedvlr_jax.types import Cohort, PyTree, RoundMetrics, ServerState
from fedvlr_jax.uplink import Upload, Uploads


class BucketCohort(NamedTuple):
    """The sampled clients of one bucket in one round, and the even chunks they are cut into.

    Attributes:
      clients: int64 [K], N in a row of no client.
      chunks: together at least K rows; those beyond K are padding.
    """

    clients: np.ndarray
    chunks: list[Chunk]


class BucketResult(NamedTuple):
    """The results of the chunks of one `BucketCohort`.

    Attributes:
      uploads: one `Upload`, the sum over the chunks; or one `Uploads` per chunk, [K] together.
      reports: (loss, clipped, bad_leaf), NumPy [K] each.
    """

    uploads: tuple[Upload | Uploads, ...]
    reports: Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkedRounds:
    """One round in three compiled parts: it is opened, its chunks are trained, it is closed."""

    setup: Setup
    sampling: Sampling
    clients: ChunkedClients

    @functools.cached_property
    def _begin(self) -> Callable[..., Any]:
        """(server, histories and sampled of each bucket, features, rates) -> (the `Opened` round,
        the cohorts, alpha [K])."""
        task, plan, mesh = self.setup.task, self.setup.plan, self.setup.mesh
        weight, federation = task.model.backbone.weight, task.config.federation

        def begin(server, histories, sampled, features, rates):
            cohorts = make_cohorts(server, histories, sampled, weight, federation)
            opened = open_round(task, plan, server, features, rates)
            return opened, cohorts, client_weights(task, cohorts, mesh)

        return self.setup.compiled(begin)

    @functools.cached_property
    def _train(self) -> Callable[..., Any]:
        """(total, broadcast, clients, key) of a chunk -> (upload, rows, reports).

        The upload is the new total; with total None, it is the chunk's own `Uploads`.
        """
        task, plan, mesh = self.setup.task, self.setup.plan, self.setup.mesh
        run = over_devices(make_train(task, plan), mesh, exact=task.aggregator.reduce.exact)

        def train(total, broadcast, clients, key):
            cohort, alpha, rows = clients
            result = run(broadcast, clients, stream(key, LOCAL, broadcast.round))
            upload = result.upload
            if total is not None:
                upload = jax.tree.map(jnp.add, total, upload)
            # If the round turns out not to be finite, the rows are discarded.
            write_back = make_write_back(plan, len(alpha), mesh)
            new = write_back(broadcast, result.private, rows, cohort.responded)
            return upload, new, (result.loss, result.clipped, result.bad_leaf)

        return self.setup.compiled(train, donate_argnums=0)

    @functools.cached_property
    def _finish(self) -> Callable[..., Any]:
        """(server, the `Opened` round, `BucketResult.uploads` of each bucket, alpha, reports,
        features) -> (server, metrics)."""
        task, mesh = self.setup.task, self.setup.mesh

        def finish(server, opened, uploads, alpha, reports, features):
            buckets = [_joined(chunks) for chunks in uploads]
            received = Received(join_buckets(buckets), alpha, reports)
            after, metrics = close_round(task, server, opened, received, mesh)
            after = regrouped(task, server, after, opened.broadcast, received, features, mesh)
            return after, metrics

        return self.setup.compiled(finish)

    @functools.cached_property
    def _at_once(self) -> list[int]:
        """Clients of each bucket that a device trains at once."""
        task, plan = self.setup.task, self.setup.plan
        return [chunk_size(task, plan, length) for length in self.clients.lengths]

    def cohorts(self, seed: int, round_number: int) -> list[BucketCohort]:
        """The clients of each bucket in one round, in the chunks of `chunking.map_chunks`."""
        setup, cohorts = self.setup, []
        for bucket, rows in enumerate(self.sampling.sampled_rows(seed, round_number)):
            # If a bucket exceeds its static capacity, the round recompiles.
            capacity = max(self.sampling.capacities[bucket], padded(len(rows)))
            at_once = setup.num_parts * self._at_once[bucket]
            count, size = self.clients.even_chunks(capacity, at_once)
            clients = np.full(count * size, setup.population.num_users)
            clients[: len(rows)] = setup.buckets[bucket][rows]
            chunks = [Chunk(bucket, chunk) for chunk in clients.reshape(count, size)]
            cohorts.append(BucketCohort(clients[:capacity], chunks))
        return cohorts

    def round(
        self,
        server: ServerState,
        store: ClientStore,
        cohorts: Sequence[BucketCohort],
        rows: ChunkRows,
    ) -> tuple[ServerState, RoundMetrics]:
        """One round; the new rows are staged in the store, not committed.

        Args:
          cohorts: of the round, as `cohorts` returns them.
          rows: of the chunks of `cohorts`, in their order.
        """
        setup, num_clients = self.setup, self.setup.population.num_users
        rates = setup.config.federation.rates
        histories = tuple(
            self.clients.histories(bucket, cohort.clients) for bucket, cohort in enumerate(cohorts)
        )
        sampled = tuple(cohort.clients < num_clients for cohort in cohorts)
        opened, drawn, alpha = self._begin(server, histories, sampled, setup.features, rates)
        drawn, weights = jax.device_get((drawn, alpha))
        uploads, reports, start = [], [], 0
        for cohort, bucket_cohort in zip(drawn, cohorts, strict=True):
            own = weights[start : start + len(bucket_cohort.clients)]
            start += len(own)
            inputs = opened.broadcast, cohort, own, server.key
            result = self._train_bucket(inputs, store, bucket_cohort, rows)
            uploads.append(result.uploads)
            reports.append(result.reports)
        join = lambda arrays: np.concatenate(list(arrays))
        loss, clipped, bad_leaf = map(join, zip(*reports, strict=True))
        heard = Reports(
            client=join(cohort.histories.client for cohort in drawn),
            responded=join(cohort.responded for cohort in drawn),
            loss=loss,
            clipped=clipped,
            bad_leaf=bad_leaf,
        )
        operands = tuple(uploads), alpha, heard, setup.features
        server, metrics = self._finish(server, opened, *operands)
        return server, jax.device_get(metrics)

    def _train_bucket(
        self,
        inputs: tuple[Broadcast, Cohort, np.ndarray, jax.Array],
        store: ClientStore,
        bucket_cohort: BucketCohort,
        rows: ChunkRows,
    ) -> BucketResult:
        """Trains the clients of one bucket; their new rows are staged.

        Args:
          inputs: broadcast, cohort, alpha [K], the run's key.
        """
        broadcast, cohort, alpha, key = inputs
        capacity, chunks = len(bucket_cohort.clients), bucket_cohort.chunks
        total: Any = None
        if sums := self.setup.task.aggregator.reduce.combine is None:
            total = zero_sum(broadcast, self.setup.task.aggregator.reduce.sum_type)
        uploads: list[Upload | Uploads] = []
        reports, kept = [], 0
        for (own, weights), chunk in zip(_split((cohort, alpha), chunks), chunks, strict=True):
            old, fresh = next(rows)
            old = self.clients.on_devices(old, fresh, key, chunk.clients)
            clients = LocalInput(own, weights, old)
            upload, new, report = self._train(total, broadcast, clients, key)
            if sums:
                total = upload
            elif kept < capacity:
                # Beyond the capacity there are only padding rows.
                uploads.append(upload.first(capacity - kept))
                kept += len(chunk.clients)
            # An absent client's row does not change, so it is not written.
            responded = np.flatnonzero(own.responded)
            store.stage(chunk.clients[responded], trees.rows(jax.device_get(new), responded))
            reports.append(jax.device_get(report))
        return BucketResult(
            (total,) if sums else tuple(uploads),
            [np.concatenate(part)[:capacity] for part in zip(*reports, strict=True)],
        )


def _joined(chunks: Sequence[Upload | Uploads]) -> Upload | Uploads:
    """The uploads of the chunks of one bucket in the form that one chunk has, which sets the order
    in which a rule adds them up."""
    first = chunks[0]
    if not isinstance(first, Uploads):
        return first
    join = lambda axis, *leaves: jnp.concatenate(leaves, axis)
    return jax.tree.map(join, first.client_axes(), *chunks)


def _split(inputs: PyTree, chunks: Sequence[Chunk]) -> list[PyTree]:
    """`inputs`, leaves [K, ...], cut for the chunks; zeros (absent clients) beyond K."""
    size, count = len(chunks[0].clients), len(chunks)

    def cut(leaf: np.ndarray) -> np.ndarray:
        beyond = [(0, count * size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
        return np.pad(leaf, beyond).reshape(count, size, *leaf.shape[1:])

    whole = jax.tree.map(cut, inputs)
    return [trees.rows(whole, at) for at in range(count)]
