"""A simulation whose clients' private rows lie off the device, in a `ClientStore`.

A round runs chunk by chunk: while one chunk of the cohort is trained, the rows of the next
are gathered, across rounds too. The device holds the server's state and a few chunks,
whatever the population; the numbers are those of the simulation that holds everyone.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.checkpointing import RowsLater
from fedvlr_jax.data.cohorts import pad_histories
from fedvlr_jax.data.pairs import ChunkLists, Pairs
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.federated.devices import by_client, on_each_device, over_devices, padded, put
from fedvlr_jax.federated.participation import LOCAL, make_cohorts, seed_of, stream
from fedvlr_jax.federated.round import (
    Reports,
    chunk_size,
    client_weights,
    close_round,
    even_chunks,
    join_buckets,
    make_train,
    make_write_back,
    open_round,
    zero_sum,
)
from fedvlr_jax.federated.scoring import (
    clients_at_once,
    list_of_chunk,
    make_ranks,
    make_recommended,
    views_of,
)
from fedvlr_jax.federated.store import ClientStore, in_parts
from fedvlr_jax.on_device import NonFiniteError, Simulation, State
from fedvlr_jax.settings import compiled
from fedvlr_jax.types import Histories, PyTree, RoundMetrics, ServerState

# The rows of the clients that are evaluated at once, and about how many copies of them are held:
# as gathered, as made anew, on the device, and those of the next clients.
EVALUATED_BYTES, EVALUATED_COPIES = 1 << 27, 6


class Chunk(NamedTuple):
    """Some clients of one bucket: their numbers [K], N where there is no client."""

    bucket: int
    clients: np.ndarray


class Part(NamedTuple):
    """The clients of one bucket in one round [K], and the even chunks they are cut into.

    The chunks hold at least K places; those beyond are nobody's.
    """

    clients: np.ndarray
    chunks: list[Chunk]


class _Rows:
    """The rows of a sequence of chunks, each gathered while the one before it is used."""

    def __init__(self, store: ClientStore, chunks: Sequence[Chunk]):
        self._store = store
        self._chunks: Iterator[Chunk] = iter(chunks)
        self._worker = ThreadPoolExecutor(1, "gather")
        self._ahead: tuple[np.ndarray, Future] | None = None
        self._committed = [np.zeros(0, np.int64)]
        self._look_ahead()

    def _look_ahead(self) -> None:
        chunk = next(self._chunks, None)
        self._ahead = None
        self._committed = [np.zeros(0, np.int64)]
        if chunk is not None:
            self._ahead = chunk.clients, self._worker.submit(self._gather, chunk.clients)

    def _gather(self, clients: np.ndarray) -> tuple[PyTree, np.ndarray]:
        real = clients < self._store.num_clients
        rows = self._store.gather(np.where(real, clients, 0))
        return rows, real & ~self._store.touched[np.where(real, clients, 0)]

    def __next__(self) -> tuple[PyTree, np.ndarray]:
        """(rows [K, ...] of the next chunk, whether each client's is still to be made)."""
        assert self._ahead is not None
        clients, future = self._ahead
        rows, fresh = future.result()
        # What was committed since must be read again.
        stale = np.flatnonzero(np.isin(clients, np.concatenate(self._committed)))
        if len(stale):
            newer, _ = self._gather(clients[stale])
            for leaf, part in zip(jax.tree.leaves(rows), jax.tree.leaves(newer), strict=True):
                leaf[stale] = part
            fresh[stale] = False
        self._look_ahead()
        return rows, fresh

    def committed(self, clients: np.ndarray) -> None:
        """Hears that the store has new rows of these clients."""
        self._committed.append(clients)

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OffloadedSimulation(Simulation):
    """As `Simulation`, with `State.private` a `ClientStore` and no `histories` on the device."""

    def init(self, seed: int | None = None) -> State:
        run = self.config.run
        folder = (run.store_dir or tempfile.gettempdir()) if run.store == "disk" else None
        store = ClientStore(self.client_shapes, self.dataset.num_users, folder)
        seed = run.seed if seed is None else seed
        return State(self._init_server(np.uint32(seed), self._initial_items), store)

    @property
    def state_bytes(self) -> int:
        rows = self.dataset.num_users * trees.num_bytes(self.client_shapes)
        return trees.num_bytes(self.server_shapes) + rows

    # A round, in three compiled parts.

    @functools.cached_property
    def _begin(self):
        """(server, histories and sampled of each bucket, features, rates) -> what `open_round`
        returns, the cohorts, alpha [K]."""
        weight, federation = self.model.backbone.weight, self.config.federation

        def begin(server, histories, sampled, features, rates):
            cohorts = make_cohorts(server, histories, sampled, weight, federation)
            opened = open_round(self.task, self.plan, server, features, rates)
            return opened, cohorts, client_weights(self.task, cohorts, self.mesh)

        return compiled(begin)

    @functools.cached_property
    def _train(self):
        """(total, broadcast, cohort, alpha, rows, key) of a chunk -> (upload, rows, reports).

        The upload is the new total; where there is none, the chunk's own `Uploads`.
        """
        exact = self.task.aggregator.reduce.exact
        run = over_devices(make_train(self.task, self.plan), self.mesh, exact=exact)

        def train(total, broadcast, cohort, alpha, rows, key):
            result = run(broadcast, cohort, alpha, rows, stream(key, LOCAL, broadcast.round))
            upload = result.upload
            if total is not None:
                upload = jax.tree.map(jnp.add, total, upload)
            # Should the round turn out not to be finite, the rows are discarded.
            write_back = make_write_back(self.plan, len(alpha), self.mesh)
            new = write_back(broadcast, result.private, rows, cohort.responded)
            return upload, new, (result.loss, result.clipped, result.bad_leaf)

        return compiled(train, donate_argnums=0)

    @functools.cached_property
    def _finish(self):
        """(server, what `open_round` returned, uploads by bucket, alpha, reports, rates) ->
        (server, metrics)."""

        def finish(server, opened, uploads, alpha, reports, rates):
            broadcast, pull_back = opened
            upload, views = join_buckets(uploads), broadcast.views
            return close_round(
                self.task, server, pull_back, views, upload, alpha, reports, rates, self.mesh
            )

        return compiled(finish)

    @functools.cached_property
    def _make_fresh(self):
        """(rows, fresh [K], key, clients [K], their `Initialization.clients` or None) -> the rows,
        initial ones where fresh."""

        def make(rows, fresh, key, clients, begun):
            (initial,) = self._init_private(key, (clients,), None if begun is None else (begun,))
            return trees.select(fresh, initial, rows)

        return compiled(make)

    def _with_fresh(self, rows: PyTree, fresh: np.ndarray, key, clients: np.ndarray) -> PyTree:
        rows = put(rows, by_client(self.mesh))
        if not fresh.any():
            return rows
        begun = None
        if self.initialization is not None:
            own = np.minimum(clients, self.dataset.num_users - 1)
            begun = {name: table[own] for name, table in self.initialization.clients.items()}
        return self._make_fresh(rows, fresh, key, clients.astype(np.int32), begun)

    @functools.cached_property
    def _lengths(self) -> list[int]:
        """Padded history length of each bucket."""
        return [int(self.dataset.train.counts[clients].max()) for clients in self.buckets]

    @functools.cached_property
    def _at_once(self) -> list[int]:
        """Clients of each bucket that one device trains at once."""
        return [chunk_size(self.task, self.plan, length) for length in self._lengths]

    def _histories(self, bucket: int, clients: np.ndarray) -> Histories:
        """Padded histories of a chunk's or a cohort's clients, N where there is none."""
        real = clients[clients < self.dataset.num_users]
        length = self._lengths[bucket]
        return pad_histories(self.train, real, size=len(clients), length=length)

    def _even_chunks(self, num_clients: int, at_once: int) -> tuple[int, int]:
        """(number of chunks, clients in each), which the devices share evenly."""
        count, size = even_chunks(num_clients, at_once)
        return count, padded(size) if self.mesh else size

    def _parts(self, seed: int, round_number: int) -> list[Part]:
        """The clients of each bucket in one round, in chunks as `round.in_chunks` makes them."""
        parts = []
        for bucket, rows in enumerate(self.sampled_rows(seed, round_number)):
            at_once = self.num_devices * self._at_once[bucket]
            # A draw beyond the kept places is served too: it costs one more compilation.
            capacity = max(self.capacities[bucket], padded(len(rows)))
            count, size = self._even_chunks(capacity, at_once)
            clients = np.full(count * size, self.dataset.num_users)
            clients[: len(rows)] = self.buckets[bucket][rows]
            chunks = [Chunk(bucket, chunk) for chunk in clients.reshape(count, size)]
            parts.append(Part(clients[:capacity], chunks))
        return parts

    def run_rounds(self, state: State, num_rounds: int) -> tuple[State, RoundMetrics]:
        """As `Simulation.run_rounds`; the state's store is changed in place."""
        first, seed = self._first_round(state, num_rounds), seed_of(state.server.key)
        rounds = [self._parts(seed, first + r) for r in range(num_rounds)]
        chunks = [chunk for parts in rounds for part in parts for chunk in part.chunks]
        server, store, collected = state.server, state.private, []
        rows = _Rows(store, chunks)
        try:
            for number, parts in enumerate(rounds, first):
                server, metrics = self._round(server, store, parts, rows)
                if not metrics.finite:
                    kept = State(server, store)
                    raise NonFiniteError(self._describe_failure(number, metrics, kept), kept)
                rows.committed(store.commit())
                collected.append(metrics)
        except BaseException:
            store.discard()
            raise
        finally:
            rows.close()
        return State(server, store), jax.tree.map(lambda *x: np.stack(x), *collected)

    def _round(
        self, server: ServerState, store: ClientStore, parts: list[Part], rows: _Rows
    ) -> tuple[ServerState, RoundMetrics]:
        """One round; the new rows are staged."""
        rates, num_clients = self.config.federation.rates, self.dataset.num_users
        histories = tuple(self._histories(b, part.clients) for b, part in enumerate(parts))
        sampled = tuple(part.clients < num_clients for part in parts)
        opened, cohorts, alpha = self._begin(server, histories, sampled, self.features, rates)
        broadcast, _ = opened
        cohorts, weights = jax.device_get((cohorts, alpha))
        sums = self.task.aggregator.reduce.combine is None
        uploads, heard, start = [], [], 0
        for cohort, part in zip(cohorts, parts, strict=True):
            capacity = len(part.clients)
            inputs = cohort, weights[start : start + capacity]
            start += capacity
            total = None
            if sums:
                total = zero_sum(broadcast, self.task.aggregator.reduce.sum_type)
            of_chunks, kept = [], 0
            for inside, chunk in zip(_split(inputs, part.chunks), part.chunks, strict=True):
                old, fresh = next(rows)
                old = self._with_fresh(old, fresh, server.key, chunk.clients)
                upload, new, report = self._train(total, broadcast, *inside, old, server.key)
                if sums:
                    total = upload
                elif kept < capacity:
                    # Beyond the capacity there are only padding rows.
                    uploads.append(upload.first(capacity - kept))
                    kept += len(chunk.clients)
                # An absent client's row stays as it was: it need not be written.
                responded = np.flatnonzero(inside[0].responded)
                new = jax.tree.map(lambda x: x[responded], jax.device_get(new))  # noqa: B023
                store.stage(chunk.clients[responded], new)
                of_chunks.append(jax.device_get(report))
            if sums:
                uploads.append(total)
            heard.append([np.concatenate(x)[:capacity] for x in zip(*of_chunks, strict=True)])
        join = lambda arrays: np.concatenate(list(arrays))
        loss, clipped, bad_leaf = map(join, zip(*heard, strict=True))
        reports = Reports(
            client=join(cohort.histories.client for cohort in cohorts),
            responded=join(cohort.responded for cohort in cohorts),
            loss=loss,
            clipped=clipped,
            bad_leaf=bad_leaf,
        )
        server, metrics = self._finish(server, opened, tuple(uploads), alpha, reports, rates)
        return server, jax.device_get(metrics)

    # All clients, chunk by chunk.

    @functools.cached_property
    def _views(self):
        return compiled(functools.partial(views_of, self.model))

    @functools.cached_property
    def _evaluated(self) -> list[np.ndarray]:
        """Of each bucket, its clients in the chunks that are evaluated at once [C, K], N beyond."""
        most = max(1, EVALUATED_BYTES // trees.num_bytes(self.client_shapes))
        at_once = min(most, clients_at_once(self.model))
        buckets = []
        for clients in self.buckets:
            count, size = self._even_chunks(len(clients), at_once)
            places = np.full(count * size, self.dataset.num_users)
            places[: len(clients)] = clients
            buckets.append(places.reshape(count, size))
        return buckets

    def _evaluated_chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for chunks in self._evaluated:
            share = chunks.shape[1] // self.num_devices
            yield chunks.ravel(), np.arange(0, chunks.size + 1, share)

    def _on_devices_by_chunk(self, function: Callable) -> Callable:
        """(shared, views, (rows, histories), lists of one chunk) -> the results of `function`."""

        def chunk_results(shared, views, inputs):
            rows, lists = inputs
            return function(shared, views, *rows, *list_of_chunk(lists, 0))

        return compiled(on_each_device(chunk_results, self.mesh))

    def _over_clients(
        self, state: State, function: Callable, *lists: Sequence[ChunkLists]
    ) -> list[Any]:
        """`function` of `_on_devices_by_chunk` for all clients.

        Returns:
          Of each bucket the results on the host, joined over its chunks.
        """
        shared, devices = state.server.shared, self.num_devices
        views = self._views(shared, self.features)
        chunks = [Chunk(b, part) for b, parts in enumerate(self._evaluated) for part in parts]
        rows, results = _Rows(state.private, chunks), []
        try:
            for bucket, parts in enumerate(self._evaluated):
                of_chunks = []
                for number, clients in enumerate(parts):
                    old, fresh = next(rows)
                    old = self._with_fresh(old, fresh, state.server.key, clients)
                    histories = self._histories(bucket, clients)
                    own = slice(number * devices, (number + 1) * devices)
                    pairs = [Pairs(*(leaf[own] for leaf in of[bucket].pairs)) for of in lists]
                    result = function(shared, views, ((old, histories), pairs))
                    of_chunks.append(jax.device_get(result))
                results.append(jax.tree.map(lambda *leaves: np.concatenate(leaves), *of_chunks))
        finally:
            rows.close()
        return results

    @functools.cached_property
    def _ranks(self):
        return self._on_devices_by_chunk(make_ranks(self.model))

    def _rank(self, state: State, part: str) -> tuple[Ranks, np.ndarray]:
        return self.joined(part, self._over_clients(state, self._ranks, *self.held_out[part]))

    def recommend(self, state: State, k: int) -> tuple[np.ndarray, np.ndarray]:
        recommended = self._on_devices_by_chunk(make_recommended(self.model, k))
        results = self._over_clients(state, recommended, self._owned(k))
        scores, items = self.in_user_order(results)
        return items, scores

    def pack(self, state: State) -> PyTree:
        clients, rows = state.private.snapshot()
        return {"server": state.server, "clients": clients.astype(np.int32), "private": rows}

    def packed_shapes(self, leaves: Mapping[str, Sequence], part: str) -> PyTree:
        shapes = super().packed_shapes(leaves, part)
        later = lambda leaf: RowsLater(leaf.shape, leaf.dtype)
        return {**shapes, "private": jax.tree.map(later, shapes["private"])}

    def unpack(self, packed: PyTree) -> State:
        state = self.init()
        clients = np.asarray(packed["clients"])
        for part in in_parts(np.arange(len(clients))):
            rows = jax.tree.map(lambda leaf: leaf[part], packed["private"])  # noqa: B023
            state.private.stage(clients[part], rows)
            state.private.commit()
        return state._replace(server=packed["server"])


def _split(inputs: PyTree, chunks: Sequence[Chunk]) -> list[PyTree]:
    """`inputs`, leaves [K, ...], cut for the chunks; zeros (absent clients) beyond K."""
    size, count = len(chunks[0].clients), len(chunks)

    def cut(leaf: np.ndarray) -> np.ndarray:
        beyond = [(0, count * size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
        return np.pad(leaf, beyond).reshape(count, size, *leaf.shape[1:])

    whole = jax.tree.map(cut, inputs)
    return [jax.tree.map(lambda leaf: leaf[at], whole) for at in range(count)]  # noqa: B023
