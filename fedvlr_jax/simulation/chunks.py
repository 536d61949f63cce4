"""Chunks of clients with private rows in a `ClientStore`, and how their rows are gathered."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.data.cohorts import pad_histories
from fedvlr_jax.federated.chunking import even_chunks
from fedvlr_jax.federated.devices import client_sharding, padded, put
from fedvlr_jax.federated.store import ClientStore
from fedvlr_jax.simulation.setup import Setup
from fedvlr_jax.simulation.state import InitialState
from fedvlr_jax.types import Histories, PyTree


class Chunk(NamedTuple):
    """Some clients of one bucket: their numbers, int64 [K]; N in a row of no client."""

    bucket: int
    clients: np.ndarray


class ChunkRows:
    """The rows of a sequence of chunks, each gathered while the one before it is used."""

    def __init__(self, store: ClientStore, chunks: Sequence[Chunk]) -> None:
        self._store = store
        self._chunks: Iterator[Chunk] = iter(chunks)
        self._worker = ThreadPoolExecutor(1, "gather")
        self._ahead: tuple[np.ndarray, Future[Any]] | None = None
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
        """(rows [K, ...] of the next chunk, bool [K]: whether a client has no row yet)."""
        assert self._ahead is not None
        clients, future = self._ahead
        rows, fresh = future.result()
        # Rows that were committed since they were gathered must be read again.
        stale = np.flatnonzero(np.isin(clients, np.concatenate(self._committed)))
        if len(stale):
            newer, _ = self._gather(clients[stale])
            for leaf, part in zip(jax.tree.leaves(rows), jax.tree.leaves(newer), strict=True):
                leaf[stale] = part
            fresh[stale] = False
        self._look_ahead()
        return rows, fresh

    def committed(self, clients: np.ndarray) -> None:
        """To be called when the store has new rows of these clients."""
        self._committed.append(clients)

    def close(self) -> None:
        """Ends the thread; chunks that are not gathered yet never are."""
        self._worker.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True, eq=False)
class ChunkedClients:
    """The clients of a setup by the chunk: their padded histories, and their rows on the device."""

    setup: Setup
    initial: InitialState

    @functools.cached_property
    def lengths(self) -> list[int]:
        """Padded history length of each bucket."""
        counts = self.setup.population.train.counts
        return [int(counts[users].max()) for users in self.setup.buckets]

    def histories(self, bucket: int, clients: np.ndarray) -> Histories:
        """Padded histories [K, ...] of `clients` [K] of a bucket, N in a row of no client."""
        real = clients[clients < self.setup.population.num_users]
        length = self.lengths[bucket]
        return pad_histories(self.setup.train, real, size=len(clients), length=length)

    def even_chunks(self, num_clients: int, at_once: int) -> tuple[int, int]:
        """(number of chunks, clients in each), which the devices share evenly."""
        count, size = even_chunks(num_clients, at_once)
        return count, padded(size) if self.setup.mesh else size

    def on_devices(
        self, rows: PyTree, fresh: np.ndarray, key: jax.Array, clients: np.ndarray
    ) -> PyTree:
        """The rows [K, ...] of `clients` [K] on the devices, initial ones where `fresh` [K]."""
        rows = put(rows, client_sharding(self.setup.mesh))
        if not fresh.any():
            return rows
        given = None
        if self.setup.initialization is not None:
            own = np.minimum(clients, self.setup.population.num_users - 1)
            tables = self.setup.initialization.clients
            given = {name: table[own] for name, table in tables.items()}
        return self._with_initial(rows, fresh, key, clients.astype(np.int32), given)

    @functools.cached_property
    def _with_initial(self) -> Callable[..., PyTree]:
        """(rows, fresh [K], key, clients [K], their `Initialization.clients` or None) -> the rows,
        initial ones where fresh."""

        def with_initial(rows, fresh, key, clients, given):
            by_bucket = None if given is None else (given,)
            (initial,) = self.initial.init_private(key, (clients,), by_bucket)
            return trees.select(fresh, initial, rows)

        return self.setup.compiled(with_initial)
