"""The engine whose clients all live on the devices: many rounds are one compiled call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.data.cohorts import pad_histories
from fedvlr_jax.data.pairs import ChunkLists, Pairs
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.federated.cohort_rows import Population
from fedvlr_jax.federated.devices import (
    GROUPS,
    client_sharding,
    fetch,
    map_devices,
    padded,
    put,
    replicated_sharding,
)
from fedvlr_jax.federated.scoring import (
    chunk_bounds,
    clients_at_once,
    make_ranks,
    make_recommended,
    over_chunks,
    views_of,
)
from fedvlr_jax.federated.store import in_parts
from fedvlr_jax.federated.streams import seed_of
from fedvlr_jax.settings import shapes_of
from fedvlr_jax.simulation.buckets import in_user_order, place_of
from fedvlr_jax.simulation.evaluation import BucketChunks, Evaluation
from fedvlr_jax.simulation.failures import failed_round
from fedvlr_jax.simulation.packing import ROWS, packed_shapes
from fedvlr_jax.simulation.rounds import make_run
from fedvlr_jax.simulation.sampling import Sampling
from fedvlr_jax.simulation.setup import Setup
from fedvlr_jax.simulation.state import InitialState, State
from fedvlr_jax.types import Histories, PyTree, Rates, RoundMetrics


@dataclasses.dataclass(frozen=True, eq=False)
class OnDevice:
    """An `Engine` with `State.private` on the devices, a stacked pytree per bucket.

    Attributes:
      histories: of each bucket, [padded n_b, ...]; rows of no client up to a multiple of GROUPS.
    """

    setup: Setup
    initial: InitialState
    sampling: Sampling
    histories: tuple[Histories, ...]

    def init(self, seed: int | None) -> State:
        """As `Engine.init`."""
        server = self.initial.server(seed)
        clients = tuple(history.client for history in self.histories)
        initial = None
        if self.setup.initialization is not None:
            tables = self.setup.initialization.clients
            by_bucket = {name: self._by_bucket(table) for name, table in tables.items()}
            initial = tuple(
                {name: buckets[number] for name, buckets in by_bucket.items()}
                for number in range(len(clients))
            )
        return State(server, self.initial.init_private(server.key, clients, initial))

    def _by_bucket(self, table: np.ndarray) -> tuple[jax.Array, ...]:
        """The rows of `table` [N, ...] by bucket; zeros in the rows of no client."""
        buckets = []
        for users in self.setup.buckets:
            missing = padded(len(users)) - len(users)
            rows = np.pad(table[users], ((0, missing), (0, 0)))
            buckets.append(put(rows, client_sharding(self.setup.mesh)))
        return tuple(buckets)

    @property
    def state_bytes(self) -> int:
        """As `Engine.state_bytes`."""
        return trees.num_bytes(shapes_of(self.init, None))

    # Rounds.

    def population_with(self, rates: Rates) -> Population:
        """The inputs of `run_function` that no round changes."""
        return Population(self.histories, self.setup.features, rates)

    @functools.cached_property
    def run_function(self) -> Callable[..., tuple[State, RoundMetrics]]:
        """The pure loop over rounds, see `rounds.make_run`."""
        return make_run(self.setup)

    @functools.cached_property
    def run(self) -> Any:
        """`run_function`, compiled; it donates the state."""
        return self.setup.compiled(self.run_function, static_argnames="places", donate_argnums=0)

    def run_rounds(self, state: State, num_rounds: int) -> tuple[State, RoundMetrics]:
        """As `Simulation.run_rounds`, in one compiled call."""
        config, first = self.setup.config, int(jax.device_get(state.server.round))
        # One program for every number of rounds up to an evaluation.
        places = max(num_rounds, config.evaluation.eval_every)
        schedule = self.sampling.schedule(seed_of(state.server.key), first, num_rounds, places)
        population = self.population_with(config.federation.rates)
        state, metrics = self.run(state, population, schedule, num_rounds, places)
        metrics = trees.rows(fetch(metrics), slice(num_rounds))
        if not metrics.finite.all():
            at = int(np.argmin(metrics.finite))
            failed = trees.rows(metrics, at)
            shapes = self.initial.client_shapes
            raise failed_round(config, first + at, failed, state, shapes)
        return state, metrics

    # Evaluation.

    def _ranked_at_once(self, size: int) -> int:
        """Clients of a bucket of `size` rows that a device ranks at once.

        Where sums are exact, the chunks are the same on 1, 2, 4 and 8 devices: equal parts of a
        GROUPS-th of the bucket.
        """
        at_once = clients_at_once(self.setup.model)
        if not self.setup.exact:
            return at_once
        group = size // GROUPS
        return max(n for n in range(1, min(at_once, group) + 1) if group % n == 0)

    @functools.cached_property
    def evaluation(self) -> Evaluation:
        """As `Engine.evaluation`: each device ranks its own rows, chunk by chunk."""
        setup, chunks = self.setup, []
        for users in setup.buckets:
            size = padded(len(users))
            share = size // setup.num_devices
            of_device = chunk_bounds(share, self._ranked_at_once(size))
            begins = np.arange(0, size, share)[:, None] + of_device[:-1]
            beyond = np.full(size - len(users), setup.population.num_users)
            chunks.append(BucketChunks(np.append(users, beyond), np.append(begins, size)))
        return Evaluation(
            setup.config, setup.population, setup.buckets, tuple(chunks), setup.hostile
        )

    @functools.cached_property
    def targets(self) -> dict[str, tuple[tuple[Pairs, ...], tuple[Pairs, ...]]]:
        """The pairs of `Evaluation.held_out` on the devices: (targets, masked) by bucket."""
        return {
            split: (self._on_devices(held.targets), self._on_devices(held.masked))
            for split, held in self.evaluation.held_out.items()
        }

    def _on_devices(self, lists: Sequence[ChunkLists]) -> tuple[Pairs, ...]:
        return tuple(put(bucket.pairs, client_sharding(self.setup.mesh)) for bucket in lists)

    def _over_buckets(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(shared, views, private, histories, *lists)` over the chunks of each bucket.

        Returns:
          (state, histories, features, *lists of each bucket) -> its results, per bucket.
        """
        chunks = [self._ranked_at_once(padded(len(users))) for users in self.setup.buckets]

        def bucket_results(chunk, shared, views, inputs):
            rows, lists = inputs
            chunk_results = lambda rows, lists: function(shared, views, *rows, *lists)
            return over_chunks(chunk_results, rows, chunk, lists)

        def over_buckets(state, histories, features, *lists):
            shared = state.server.shared
            views = views_of(self.setup.model, shared, features)
            rows = zip(state.private, histories, strict=True)
            buckets = zip(chunks, rows, zip(*lists, strict=True), strict=True)
            spread = lambda chunk: map_devices(
                functools.partial(bucket_results, chunk), self.setup.mesh
            )
            return tuple(spread(chunk)(shared, views, inputs) for chunk, *inputs in buckets)

        return over_buckets

    @functools.cached_property
    def evaluate_function(self) -> Callable[..., Any]:
        """(state, histories, features, targets, masked) -> (Ranks, weights) per bucket, pure.

        Counts have one entry a place of the lists; `Evaluation.joined` puts them in order.
        """
        return self._over_buckets(make_ranks(self.setup.model))

    @functools.cached_property
    def evaluate(self) -> Callable[..., Any]:
        """`evaluate_function`, compiled."""
        return self.setup.compiled(self.evaluate_function)

    @functools.cached_property
    def _recommend(self) -> Callable[..., Any]:
        def recommend(state, histories, features, masked, k):
            over_buckets = self._over_buckets(make_recommended(self.setup.model, k))
            return over_buckets(state, histories, features, masked)

        return self.setup.compiled(recommend, static_argnames="k")

    def rank(self, state: State, split: str) -> list[tuple[Ranks, np.ndarray]]:
        """As `Engine.rank`."""
        lists = self.targets[split]
        return fetch(self.evaluate(state, self.histories, self.setup.features, *lists))

    def recommend(self, state: State, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """As `Engine.recommend`."""
        masked = self._on_devices(self.evaluation.owned())
        return fetch(self._recommend(state, self.histories, self.setup.features, masked, k))

    # Packing.

    def pack(self, state: State, with_rows: bool) -> PyTree:
        """As `Engine.pack`: the rows of all clients."""
        left_out = () if with_rows else (ROWS,)
        private = tuple(
            {name: leaf for name, leaf in bucket.items() if name not in left_out}
            for bucket in state.private
        )
        return {
            # Fetched, because one process cannot read arrays that are spread over all processes.
            "server": fetch(state.server),
            "clients": np.arange(self.setup.population.num_users, dtype=np.int32),
            "private": in_user_order(self.setup.buckets, fetch(private)),
        }

    def packed_shapes(self, leaves: Mapping[str, Sequence[Any]], name: str) -> PyTree:
        """As `Engine.packed_shapes`."""
        return packed_shapes(self.initial, leaves, name)

    def unpack(self, packed: PyTree) -> State:
        """As `Engine.unpack`."""
        place_bucket, place_row = place_of(self.setup.buckets)
        clients = np.asarray(packed["clients"])
        values, structure = jax.tree.flatten(packed["private"])
        # Where every client has a row, only padding rows remain; they are filled with zeros.
        everyone = len(clients) == self.setup.population.num_users
        initial = shapes_of(self.init, None) if everyone else self.init(None)
        buckets = [jax.tree.leaves(rows) for rows in initial.private]
        del initial
        for number, leaves in enumerate(buckets):
            chosen = np.flatnonzero(place_bucket[clients] == number)
            # Leaf by leaf, each old one freed before the new one is put in its place: a run that
            # is resumed takes no more memory than it took before.
            for i, value in enumerate(values):
                old, leaves[i] = leaves[i], None
                whole = np.zeros(old.shape, old.dtype) if everyone else np.array(fetch(old))
                del old
                rows = np.asarray(value) if isinstance(value, jax.Array) else value
                for part in in_parts(chosen):
                    whole[place_row[clients[part]]] = rows[part]
                leaves[i] = put(whole, client_sharding(self.setup.mesh))
        private = tuple(jax.tree.unflatten(structure, leaves) for leaves in buckets)
        return State(put(packed["server"], replicated_sharding(self.setup.mesh)), private)


def make_on_device(setup: Setup, initial: InitialState, sampling: Sampling) -> OnDevice:
    """The engine of --store=device, with the histories put on the devices."""
    histories = (pad_histories(setup.train, b, size=padded(len(b))) for b in setup.buckets)
    on_devices = tuple(put(history, client_sharding(setup.mesh)) for history in histories)
    return OnDevice(setup, initial, sampling, on_devices)
