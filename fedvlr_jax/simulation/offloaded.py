"""The engine whose private rows are in a `ClientStore`, in host memory or in files.

The devices hold the server's state and a few chunks of clients, whatever the population; the
numbers are those of the engine that holds every client.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.checkpointing import RowsLater
from fedvlr_jax.data.pairs import ChunkLists, Pairs
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.federated.devices import map_devices
from fedvlr_jax.federated.scoring import (
    clients_at_once,
    make_ranks,
    make_recommended,
    over_chunks,
    views_of,
)
from fedvlr_jax.federated.store import ClientStore, in_parts
from fedvlr_jax.federated.streams import seed_of
from fedvlr_jax.simulation.chunked_rounds import ChunkedRounds
from fedvlr_jax.simulation.chunks import Chunk, ChunkedClients, ChunkRows
from fedvlr_jax.simulation.evaluation import BucketChunks, Evaluation
from fedvlr_jax.simulation.failures import failed_round
from fedvlr_jax.simulation.packing import ROWS, packed_shapes
from fedvlr_jax.simulation.sampling import Sampling
from fedvlr_jax.simulation.setup import Setup
from fedvlr_jax.simulation.state import InitialState, State
from fedvlr_jax.types import PyTree, RoundMetrics

# Bytes of the rows of the clients that are ranked at once, and about how many copies of them are
# held: as gathered, initial ones, on the device, and those of the next clients.
EVALUATED_BYTES, EVALUATED_COPIES = 1 << 27, 6


@dataclasses.dataclass(frozen=True, eq=False)
class Offloaded:
    """An `Engine` with `State.private` a `ClientStore`, which rounds change in place."""

    setup: Setup
    initial: InitialState
    sampling: Sampling
    clients: ChunkedClients
    rounds: ChunkedRounds

    def init(self, seed: int | None) -> State:
        """As `Engine.init`."""
        run = self.setup.config.run
        folder = (run.store_dir or tempfile.gettempdir()) if run.store == "disk" else None
        shapes = self.initial.client_shapes
        store = ClientStore(shapes, self.setup.population.num_users, folder)
        return State(self.initial.server(seed), store)

    @property
    def state_bytes(self) -> int:
        """As `Engine.state_bytes`."""
        rows = self.setup.population.num_users * trees.num_bytes(self.initial.client_shapes)
        return trees.num_bytes(self.initial.server_shapes) + rows

    # Rounds.

    def run_rounds(self, state: State, num_rounds: int) -> tuple[State, RoundMetrics]:
        """As `Simulation.run_rounds`; the state's store is changed in place."""
        first, seed = int(jax.device_get(state.server.round)), seed_of(state.server.key)
        rounds = [self.rounds.cohorts(seed, first + number) for number in range(num_rounds)]
        chunks = [chunk for cohorts in rounds for cohort in cohorts for chunk in cohort.chunks]
        server, store, collected = state.server, state.private, []
        rows = ChunkRows(store, chunks)
        try:
            for number, cohorts in enumerate(rounds, first):
                # A round that is not finite returns the server's state as it was.
                server, metrics = self.rounds.round(server, store, cohorts, rows)
                if not metrics.finite:
                    kept = State(server, store)
                    config, shapes = self.setup.config, self.initial.client_shapes
                    raise failed_round(config, number, metrics, kept, shapes)
                rows.committed(store.commit())
                collected.append(metrics)
        except BaseException:
            store.discard()
            raise
        finally:
            rows.close()
        return State(server, store), jax.tree.map(lambda *x: np.stack(x), *collected)

    # All clients, chunk by chunk.

    @functools.cached_property
    def _chunks(self) -> list[np.ndarray]:
        """Of each bucket, its users in the chunks that are ranked at once [C, K]; N beyond."""
        # FedAvg without a fusion has no private rows at all.
        row = max(1, trees.num_bytes(self.initial.client_shapes))
        most = max(1, EVALUATED_BYTES // row)
        at_once = min(most, clients_at_once(self.setup.model))
        buckets = []
        for users in self.setup.buckets:
            count, size = self.clients.even_chunks(len(users), at_once)
            places = np.full(count * size, self.setup.population.num_users)
            places[: len(users)] = users
            buckets.append(places.reshape(count, size))
        return buckets

    @functools.cached_property
    def evaluation(self) -> Evaluation:
        """As `Engine.evaluation`: equal parts of each chunk are ranked at once."""
        setup, chunks = self.setup, []
        for clients in self._chunks:
            share = clients.shape[1] // setup.num_parts
            bounds = np.arange(0, clients.size + 1, share)
            chunks.append(BucketChunks(clients.ravel(), bounds))
        return Evaluation(
            setup.config, setup.population, setup.buckets, tuple(chunks), setup.hostile
        )

    @functools.cached_property
    def _views(self) -> Callable[..., jax.Array]:
        return self.setup.compiled(functools.partial(views_of, self.setup.model))

    def _by_chunk(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """(shared, views, (rows, histories), lists of one chunk) -> the results of `function`."""
        parts = self.setup.num_parts // self.setup.num_devices

        def chunk_results(shared, views, inputs):
            rows, lists = inputs
            part_results = lambda rows, lists: function(shared, views, *rows, *lists)
            size = jax.tree.leaves(rows)[0].shape[0] // parts
            return over_chunks(part_results, rows, size, lists)

        return self.setup.compiled(map_devices(chunk_results, self.setup.mesh))

    def _over_clients(
        self, state: State, function: Callable[..., Any], *lists: Sequence[ChunkLists]
    ) -> list[Any]:
        """`function` of `_by_chunk` for all clients.

        Returns:
          Of each bucket the results on the host, joined over its chunks.
        """
        shared, parts = state.server.shared, self.setup.num_parts
        views = self._views(shared, self.setup.features)
        chunks = [Chunk(b, clients) for b, bucket in enumerate(self._chunks) for clients in bucket]
        rows, results = ChunkRows(state.private, chunks), []
        try:
            for bucket, bucket_chunks in enumerate(self._chunks):
                chunk_results = []
                for number, clients in enumerate(bucket_chunks):
                    old, fresh = next(rows)
                    old = self.clients.on_devices(old, fresh, state.server.key, clients)
                    histories = self.clients.histories(bucket, clients)
                    own = slice(number * parts, (number + 1) * parts)
                    pairs = [Pairs(*(leaf[own] for leaf in of[bucket].pairs)) for of in lists]
                    result = function(shared, views, ((old, histories), pairs))
                    chunk_results.append(jax.device_get(result))
                results.append(jax.tree.map(lambda *x: np.concatenate(x), *chunk_results))
        finally:
            rows.close()
        return results

    @functools.cached_property
    def _ranks(self) -> Callable[..., Any]:
        return self._by_chunk(make_ranks(self.setup.model))

    def rank(self, state: State, split: str) -> list[tuple[Ranks, np.ndarray]]:
        """As `Engine.rank`."""
        return self._over_clients(state, self._ranks, *self.evaluation.held_out[split])

    def recommend(self, state: State, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `Engine.recommend`."""
        recommended = self._by_chunk(make_recommended(self.setup.model, k))
        return self._over_clients(state, recommended, self.evaluation.owned())

    # Packing.

    def pack(self, state: State, with_rows: bool) -> PyTree:
        """As `Engine.pack`: the rows of the clients that ever took part."""
        clients, rows = state.private.snapshot(without=() if with_rows else (ROWS,))
        return {"server": state.server, "clients": clients.astype(np.int32), "private": rows}

    def packed_shapes(self, leaves: Mapping[str, Sequence[Any]], name: str) -> PyTree:
        """As `Engine.packed_shapes`; private rows are read only when they are used."""
        return packed_shapes(self.initial, leaves, name, RowsLater)

    def unpack(self, packed: PyTree) -> State:
        """As `Engine.unpack`."""
        state = self.init(None)
        clients = np.asarray(packed["clients"])
        for part in in_parts(np.arange(len(clients))):
            rows = trees.rows(packed["private"], part)
            state.private.stage(clients[part], rows)
            state.private.commit()
        return state._replace(server=packed["server"])


def make_offloaded(setup: Setup, initial: InitialState, sampling: Sampling) -> Offloaded:
    """The engine of --store=host and --store=disk."""
    clients = ChunkedClients(setup, initial)
    return Offloaded(setup, initial, sampling, clients, ChunkedRounds(setup, sampling, clients))
