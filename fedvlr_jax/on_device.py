"""A simulation whose clients all live on the devices: many rounds are one compiled call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedvlr_jax import trees
from fedvlr_jax.attacks import Hostile
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.pairs import ChunkLists, Pairs, chunk_lists, in_part_order
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.evaluation.selection import for_dataset
from fedvlr_jax.federated.buffered import (
    check_staleness,
    first_versions,
    make_buffered_step,
    pack_schedule,
    slice_capacities,
    slices_of,
)
from fedvlr_jax.federated.devices import (
    by_client,
    constrain,
    fetch,
    on_all,
    on_each_device,
    padded,
    put,
)
from fedvlr_jax.federated.gathered import num_slots
from fedvlr_jax.federated.initialization import Initialization
from fedvlr_jax.federated.local import ClientNumbers, Model, Task
from fedvlr_jax.federated.participation import (
    INIT,
    bucket_capacities,
    make_cohorts,
    poisson_capacities,
    poisson_clients,
    sampled_clients,
    seed_of,
    stream,
)
from fedvlr_jax.federated.round import make_round, server_numbers
from fedvlr_jax.federated.scoring import (
    chunk_bounds,
    clients_at_once,
    in_chunks,
    make_ranks,
    make_recommended,
    views_of,
)
from fedvlr_jax.federated.store import in_parts
from fedvlr_jax.fleet import Hardware, Participation, make_hardware
from fedvlr_jax.fleet.transfer import Shape
from fedvlr_jax.privacy.release import places_of
from fedvlr_jax.selection import Selection
from fedvlr_jax.settings import compiled, key_of, shapes_of
from fedvlr_jax.types import METRIC_TYPES, Histories, PyTree, RoundMetrics, ServerState


class NonFiniteError(ArithmeticError):
    """A number was not finite; `state` is the last state whose numbers all were."""

    def __init__(self, message: str, state: State):
        super().__init__(message)
        self.state = state


class State(NamedTuple):
    """A whole simulation: what the server has, and every client's private rows.

    `private` holds one stacked pytree a bucket of clients (see `Simulation.buckets`); with
    --store=host or disk it is a `ClientStore`.
    """

    server: ServerState
    private: Any


class HeldOut(NamedTuple):
    """One part of the split, as the chunks of clients of each bucket rank it.

    Attributes:
      targets: of each bucket, the items to rank.
      masked: of each bucket, the items that are no candidates beside the histories.
    """

    targets: tuple[ChunkLists, ...]
    masked: tuple[ChunkLists, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulation:
    """Compiled functions over one data set; made by `simulation.make_simulation`.

    Attributes:
      buckets: the user indices of each bucket; together every user once.
      histories: of each bucket, and rows of no client up to a multiple of GROUPS.
      plan: a name of `round.PLANS`, how local epochs are executed.
      initialization: the closed form that training begins with; None where all is drawn.
      train: the train part as the clients have it: that of the data set, its histories weighted
        by age where the initialization says so.
      mesh: the devices that share the clients; None for one.
      hostile: the hostile clients, who are the last of `dataset`; None without them.
      participation: the simulated clock; None where the compiled round draws who takes part.
    """

    config: Config
    dataset: Dataset
    model: Model
    task: Task
    buckets: tuple[np.ndarray, ...]
    histories: tuple[Histories, ...]
    features: dict[str, jax.Array]
    plan: str
    initialization: Initialization | None
    train: Interactions
    mesh: Mesh | None
    hostile: Hostile | None = None
    participation: Participation | None = None

    def init(self, seed: int | None = None) -> State:
        """The state before the first round; `seed` defaults to the config's."""
        server = self._init_server(
            np.uint32(self.config.run.seed if seed is None else seed), self._initial_items
        )
        clients = tuple(history.client for history in self.histories)
        begun = None
        if self.initialization is not None:
            rows = {
                name: self._by_bucket(table) for name, table in self.initialization.clients.items()
            }
            begun = tuple({name: rows[name][b] for name in rows} for b in range(len(clients)))
        return State(server, self._init_private(server.key, clients, begun))

    @property
    def views_shape(self) -> tuple[int, int, int]:
        """(I, G, d) of the broadcast views."""
        return self.model.num_items, len(self.model.fusion.names), self.model.width

    @property
    def broadcast_shape(self) -> Shape:
        """The size of what the server sends."""
        head = shapes_of(self.model.init_shared, key_of(0))["head"]
        items, views, width = self.views_shape
        return Shape(items, views * width, sum(leaf.size for leaf in jax.tree.leaves(head)))

    @property
    def upload_shape(self) -> Shape:
        """The size of an upload: that of the broadcast, or with --upload_rank numbers a row and
        --upload_bits each."""
        shape, fleet = self.broadcast_shape, self.config.fleet
        return shape._replace(row=fleet.upload_rank or shape.row, bits=fleet.upload_bits or 32)

    @property
    def touched_rows(self) -> np.ndarray:
        """int64 [N]: the rows of each client's upload that may not be zero.

        Draws are counted as if none came twice. Noise is on every row. With --upload_rows
        as many are sent, for the residual has rows that the client does not touch.
        """
        if rows := self.config.fleet.upload_rows:
            return np.full(self.dataset.num_users, rows)
        if self.config.privacy.noise_multiplier:
            return np.full(self.dataset.num_users, self.model.num_items)
        counts = self.dataset.train.counts
        lengths, place = np.unique(counts, return_inverse=True)
        return np.array([num_slots(self.task, int(n)) for n in lengths])[place]

    @property
    def hardware(self) -> Hardware:
        """The clients' devices."""
        correlation = self.config.fleet.speed_activity_correlation
        return make_hardware(self.dataset.train.counts, correlation)

    @property
    def _initial_items(self) -> np.ndarray | None:
        return None if self.initialization is None else self.initialization.items

    @functools.cached_property
    def _init_server(self):
        aggregator = self.task.aggregator
        optimizer = aggregator.server(self.config.federation.rates)
        attack = aggregator.attack

        def init(seed: jax.Array, items: jax.Array | None) -> ServerState:
            key = key_of(seed)
            shared = self.model.init_shared(stream(key, INIT))
            if items is not None:
                silent = self.model.fusion.silent
                assert silent is not None
                shared |= {"items": items, "fusion": silent(shared["fusion"])}
            uplink = aggregator.uplink.init()
            return ServerState(
                round=jnp.zeros((), jnp.int32),
                key=key,
                shared=shared,
                optimizer=optimizer.init(shared),
                uplink=uplink,
                attack=() if attack is None else attack.init(self.views_shape),
                versions=first_versions(self.config, shared, uplink),
            )

        return compiled(init, out_shardings=on_all(self.mesh))

    @functools.cached_property
    def _init_private(self):
        """(key, clients [K] of each bucket, their `Initialization.clients` or None) -> their rows
        before the first round."""

        def init(
            key: jax.Array, clients: tuple[jax.Array, ...], begun: tuple[PyTree, ...] | None
        ) -> tuple[PyTree, ...]:
            client = lambda c: self.model.init_private(stream(key, INIT, c))
            rows = tuple(jax.vmap(client)(each) for each in clients)
            for of_bucket, each in zip(rows, begun or (), strict=begun is not None):
                if "vector" in each:
                    of_bucket["head"] |= {"vector": each["vector"]}
                if "logits" in each:
                    prefer = self.model.fusion.prefer
                    assert prefer is not None
                    of_bucket["router"] = jax.vmap(prefer)(of_bucket["router"], each["logits"])
            return rows

        return compiled(init, out_shardings=by_client(self.mesh))

    @functools.cached_property
    def selection(self) -> Selection:
        """What rounds are chosen by on validation, its slice resolved for the data set."""
        return for_dataset(self.config.evaluation.selection, self.dataset)

    @property
    def num_devices(self) -> int:
        """How many devices share the clients."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def state_bytes(self) -> int:
        """Bytes of a state (an early-stopping run holds two)."""
        return trees.num_bytes(shapes_of(self.init))

    def run_rounds(self, state: State, num_rounds: int) -> tuple[State, RoundMetrics]:
        """Runs rounds in one compiled call; the state passed in is used up (donated).

        How many there are changes no bit.

        Returns:
          The new state, and the metrics of each round as NumPy arrays [num_rounds].

        Raises:
          NonFiniteError: a loss or an update was not finite. The error carries the state
            before that round as `.state`.
        """
        first = self._first_round(state, num_rounds)
        # One program for every number of rounds up to an evaluation.
        places = max(num_rounds, self.config.evaluation.eval_every)
        schedule = self.schedule(seed_of(state.server.key), first, num_rounds, places)
        rates = self.config.federation.rates
        state, metrics = self._run(
            state, self.histories, self.features, rates, schedule, num_rounds, places
        )
        metrics = jax.tree.map(lambda x: x[:num_rounds], fetch(metrics))
        if not metrics.finite.all():
            at = int(np.argmin(metrics.finite))
            failed = jax.tree.map(lambda x: x[at], metrics)
            raise NonFiniteError(self._describe_failure(first + at, failed, state), state)
        return state, metrics

    @staticmethod
    def _first_round(state: State, num_rounds: int) -> int:
        """The number of the next round; InputError where none is sampled for."""
        if num_rounds < 1:
            raise InputError(f"num_rounds={num_rounds}: give at least 1")
        return int(jax.device_get(state.server.round))

    def _describe_failure(self, round_number: int, metrics: RoundMetrics, state: State) -> str:
        """The round, the client and the leaf of the failure that one round's metrics tell of."""
        client = int(metrics.bad_client)
        where = f"client {client}" if client >= 0 else "the server's step"
        numbers: PyTree = (
            ClientNumbers(
                metrics.loss, **{k: v for k, v in self.client_shapes.items() if k != "residual"}
            )
            if client >= 0
            else server_numbers(state.server.shared, state.server.optimizer)
        )
        leaf = list(trees.named_leaves(numbers))[metrics.bad_leaf]
        return (
            f"round {round_number}: a non-finite number at {where}, leaf {leaf}; the state before "
            "that round was kept; lower --client_lr, --router_lr, --item_lr or the --server_lr_* "
            "flags"
        )

    @functools.cached_property
    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        """(bucket, row in it) of every client, int32 [N] each."""
        bucket, row = np.empty((2, self.dataset.num_users), np.int32)
        for b, clients in enumerate(self.buckets):
            bucket[clients], row[clients] = b, np.arange(len(clients))
        return bucket, row

    def sampled_rows(self, seed: int, round_number: int) -> list[np.ndarray]:
        """Of each bucket, the rows of the clients that a round asks, ascending.

        With a simulated clock, of those that report in time: the others change nothing.
        """
        cohort, num_clients = self.config.federation.cohort, self.dataset.num_users
        if self.participation is not None:
            schedule = self.participation.round(seed, round_number)
            return self._rows_of(schedule.sampled[schedule.responded])
        if not self.samples:
            return [np.arange(len(clients)) for clients in self.buckets]
        if self.config.federation.sampling == "poisson":
            sampled = poisson_clients(seed, round_number, num_clients, cohort, self.places)
        else:
            sampled = sampled_clients(seed, round_number, num_clients, cohort)
        return self._rows_of(sampled)

    def _rows_of(self, clients: np.ndarray) -> list[np.ndarray]:
        """Of each bucket, the rows of those of `clients` that are in it."""
        bucket, row = (of[clients] for of in self._place)
        return [row[bucket == b] for b in range(len(self.buckets))]

    @property
    def samples(self) -> bool:
        """Whether a round asks only some clients."""
        return (
            self.participation is not None
            or 0 < self.config.federation.cohort < self.dataset.num_users
        )

    @functools.cached_property
    def places(self) -> int:
        """The most clients of a round."""
        federation, num_clients = self.config.federation, self.dataset.num_users
        if not self.samples:
            return num_clients
        if federation.sampling == "fixed":
            return federation.cohort
        return places_of(federation, num_clients)

    @functools.cached_property
    def capacities(self) -> list[int]:
        """Rows that one round keeps for each bucket, a multiple of GROUPS."""
        sizes = [len(clients) for clients in self.buckets]
        federation, clock = self.config.federation, self.participation
        if clock is not None:
            sizes = bucket_capacities(sizes, clock.expected)
        elif self.samples and federation.sampling == "poisson":
            sizes = poisson_capacities(sizes, federation.cohort, self.places)
        elif self.samples:
            sizes = bucket_capacities(sizes, federation.cohort)
        return [padded(size) for size in sizes]

    def schedule(
        self, seed: int, first: int, num_rounds: int, places: int
    ) -> tuple[np.ndarray, ...] | None:
        """Rows of each bucket sampled in each round, int32 [places, K_b]; None asks everyone.

        Args:
          seed: of the run. first: the first round.
          places: at least num_rounds; in those beyond, nobody is sampled.
        """
        if self.config.fleet.buffer:
            return self._buffered_schedule(seed, first, num_rounds, places)
        if not self.samples:
            return None
        sampled = [self.sampled_rows(seed, first + r) for r in range(num_rounds)]
        schedule = []
        for b, (history, capacity) in enumerate(zip(self.histories, self.capacities, strict=True)):
            # A draw beyond the kept places is served too: it costs one more compilation.
            capacity = padded(max(capacity, *(len(rows[b]) for rows in sampled)))
            of_rounds = np.full((places, capacity), history.count.shape[0], np.int32)
            for line, rows in zip(of_rounds, sampled, strict=False):
                line[: len(rows[b])] = rows[b]
            schedule.append(of_rounds)
        return tuple(schedule)

    def _buffered_schedule(
        self, seed: int, first: int, num_rounds: int, places: int
    ) -> tuple[np.ndarray, ...]:
        """As `schedule`, of server steps with stale uploads; see `buffered.pack_schedule`."""
        assert self.participation is not None
        capacities = slice_capacities(self.config, [len(clients) for clients in self.buckets])
        steps = []
        for number in range(first, first + num_rounds):
            step = self.participation.round(seed, number)
            clients = step.sampled[step.responded]
            staleness = np.zeros(len(clients), np.int64)
            if step.staleness is not None:
                staleness = step.staleness[step.responded]
            check_staleness(staleness, min(number, self.config.fleet.max_staleness))
            bucket = self._place[0][clients]
            of_buckets = [staleness[bucket == b] for b in range(len(self.buckets))]
            steps.append(slices_of(self._rows_of(clients), of_buckets, capacities))
        beyond = [history.count.shape[0] for history in self.histories]
        return pack_schedule(steps, capacities, beyond, places)

    @functools.cached_property
    def run_function(self):
        """(state, histories, features, rates, schedule, num_rounds, places) -> (state, metrics
        [places] of which the first num_rounds count), pure; only `places` must be static."""
        round_fn = make_round(self.task, self.plan, self.mesh)
        spread = by_client(self.mesh)
        weight = self.model.backbone.weight
        buffered = make_buffered_step(self.task, self.plan, self.mesh, weight)
        federation = self.config.federation

        def cohorts_of(server, histories, sampled):
            return make_cohorts(server, histories, sampled, weight, federation)

        def everyone(state, histories, features, rates, ok):
            sampled = tuple((h.count > 0) & ok for h in histories)
            cohorts = cohorts_of(state.server, histories, sampled)
            server, private, metrics = round_fn(
                state.server, state.private, cohorts, features, rates
            )
            return State(server, private), metrics

        def some(state, histories, features, rates, rows, ok):
            take = lambda leaf, row: leaf.at[row].get(mode="clip")
            chosen = tuple(
                jax.tree.map(lambda leaf, row=row: take(leaf, row), h)
                for h, row in zip(histories, rows, strict=True)
            )
            sampled = tuple(
                (row < h.count.shape[0]) & ok for h, row in zip(histories, rows, strict=True)
            )
            chosen = tuple(
                dataclasses.replace(h, count=jnp.where(a, h.count, 0))
                for h, a in zip(chosen, sampled, strict=True)
            )
            cohorts = constrain(cohorts_of(state.server, chosen, sampled), spread)
            private = tuple(
                jax.tree.map(lambda leaf, row=row: take(leaf, row), p)
                for p, row in zip(state.private, rows, strict=True)
            )
            private = constrain(private, spread)
            server, private, metrics = round_fn(state.server, private, cohorts, features, rates)
            stored = tuple(
                jax.tree.map(lambda old, new, row=row: old.at[row].set(new, mode="drop"), p, n)
                for p, n, row in zip(state.private, private, rows, strict=True)
            )
            return State(server, stored), metrics

        def run(state, histories, features, rates, schedule, num_rounds, places):
            def one(state, number, ok):
                if schedule is None:
                    return everyone(state, histories, features, rates, ok)
                rows = tuple(of_bucket[number] for of_bucket in schedule)
                if self.config.fleet.buffer:
                    server, private, metrics = buffered(
                        state.server, state.private, histories, features, rates, rows, ok
                    )
                    return State(server, private), metrics
                return some(state, histories, features, rates, rows, ok)

            def step(number, carried):
                # After a round that was not finite nobody is sampled any more, which leaves every
                # leaf as it is; a conditional would copy the private rows. Noise that is added
                # without any upload would still move the server.
                state, collected, ok = carried
                before = state.server
                state, metrics = one(state, number, ok)
                server = state.server._replace(
                    round=jnp.where(ok, state.server.round, before.round)
                )
                if self.task.aggregator.noise.always:
                    server = trees.select(ok, server, before)
                collected = jax.tree.map(lambda x, y: x.at[number].set(y), collected, metrics)
                return state._replace(server=server), collected, ok & metrics.finite

            collected = RoundMetrics(
                **{name: jnp.zeros(places, kind) for name, kind in METRIC_TYPES.items()}
            )
            start = state, collected, jnp.ones((), bool)
            state, collected, _ = jax.lax.fori_loop(0, num_rounds, step, start)
            return state, collected

        return run

    @functools.cached_property
    def _run(self):
        return compiled(self.run_function, static_argnames="places", donate_argnums=0)

    @functools.cached_property
    def evaluate_function(self):
        """(state, histories, features, targets, masked) -> per bucket (Ranks, weights), pure.

        Counts have one entry a place of the lists; `joined` puts them in order.
        """
        return self._over_buckets(make_ranks(self.model))

    def _over_buckets(self, function: Callable) -> Callable:
        """`function(shared, views, private, histories, *lists)` over the chunks of each bucket.

        Returns:
          (state, histories, features, *lists of each bucket) -> its results, per bucket.
        """
        chunk = clients_at_once(self.model)

        def bucket_results(shared, views, inputs):
            rows, lists = inputs
            chunk_results = lambda rows, lists: function(shared, views, *rows, *lists)
            return in_chunks(chunk_results, rows, chunk, lists)

        spread = on_each_device(bucket_results, self.mesh)

        def over_buckets(state, histories, features, *lists):
            shared = state.server.shared
            views = views_of(self.model, shared, features)
            rows = zip(state.private, histories, strict=True)
            buckets = zip(rows, zip(*lists, strict=True), strict=True)
            return tuple(spread(shared, views, inputs) for inputs in buckets)

        return over_buckets

    @functools.cached_property
    def _evaluate(self):
        return compiled(self.evaluate_function)

    @functools.cached_property
    def held_out(self) -> dict[str, HeldOut]:
        """The targets of "valid" and "test", and what is masked beside the histories."""
        valid, test = self.dataset.valid, self.dataset.test
        no_pairs = np.zeros((2, 0), np.int64)
        none = Interactions.from_pairs(
            user=no_pairs[0], item=no_pairs[1], num_users=valid.num_users, num_items=valid.num_items
        )
        mask_test = valid if self.config.evaluation.mask == "train+valid" else none
        targets = zip(*self._chunk_lists(valid, test), strict=True)
        masked = zip(*self._chunk_lists(none, mask_test), strict=True)
        parts = zip(("valid", "test"), targets, masked, strict=True)
        return {part: HeldOut(targets, masked) for part, targets, masked in parts}

    def _chunk_lists(self, *parts: Interactions) -> list[list[ChunkLists]]:
        """Of each bucket, the lists of its chunks, one `ChunkLists` a part."""
        return [chunk_lists(parts, clients, bounds) for clients, bounds in self._evaluated_chunks()]

    def _evaluated_chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of each bucket: its clients [R], N beyond them, and the bounds of the chunks of rows that
        one device evaluates at once [C + 1]."""
        devices = self.num_devices
        for clients, history in zip(self.buckets, self.histories, strict=True):
            size = history.count.shape[0]
            of_device = chunk_bounds(size // devices, clients_at_once(self.model))
            begins = np.arange(0, size, size // devices)[:, None] + of_device[:-1]
            beyond = np.full(size - len(clients), self.dataset.num_users)
            yield np.append(clients, beyond), np.append(begins, size)

    @functools.cached_property
    def targets(self) -> dict[str, tuple[tuple[Pairs, ...], tuple[Pairs, ...]]]:
        """The pairs of `held_out` on the devices: (targets, masked) of each part, by bucket."""
        return {
            part: (self._on_devices(held.targets), self._on_devices(held.masked))
            for part, held in self.held_out.items()
        }

    def _on_devices(self, lists: Sequence[ChunkLists]) -> tuple[Pairs, ...]:
        return tuple(put(bucket.pairs, by_client(self.mesh)) for bucket in lists)

    def _by_bucket(self, table: np.ndarray) -> tuple[jax.Array, ...]:
        """The rows of `table` [N, ...] by bucket; zeros in the rows of no client."""
        rows = []
        for clients, history in zip(self.buckets, self.histories, strict=True):
            missing = history.count.shape[0] - len(clients)
            rows.append(put(np.pad(table[clients], ((0, missing), (0, 0))), by_client(self.mesh)))
        return tuple(rows)

    def _rank(self, state: State, part: str) -> tuple[Ranks, np.ndarray]:
        """`ranks_and_weights`, finite or not."""
        results = self._evaluate(state, self.histories, self.features, *self.targets[part])
        return self.joined(part, fetch(results))

    def joined(
        self, part: str, per_bucket: Sequence[tuple[Ranks, np.ndarray]]
    ) -> tuple[Ranks, np.ndarray]:
        """What `evaluate_function` returned, on the host: the ranks of a part, and the weights."""
        ranks, weights = zip(*per_bucket, strict=True)
        entries = [bucket.entry for bucket in self.held_out[part].targets]
        size = len(getattr(self.dataset, part))
        ahead, tied = (
            in_part_order(entries, [getattr(bucket, name) for bucket in ranks], size)
            for name in ("ahead", "tied")
        )
        finite = [bucket.finite for bucket in ranks]
        return Ranks(ahead, tied, self.in_user_order(finite)), self.in_user_order(weights)

    def evaluate(self, state: State, part: str) -> Ranks:
        """Ranks of every user's held-out items of "valid" or "test" among all items.

        Masked are the user's train items and, for the test part under the strict
        protocol, its validation items.

        Returns:
          `Ranks` of NumPy arrays: ahead, tied [P] in the order of the part, finite [N].

        Raises:
          NonFiniteError: a score was not finite.
        """
        return self.ranks_and_weights(state, part)[0]

    def ranks_and_weights(self, state: State, part: str) -> tuple[Ranks, np.ndarray]:
        """What `evaluate` and `router_weights` return, in one pass over the clients."""
        ranks, weights = self._rank(state, part)
        if not ranks.finite.all():
            raise NonFiniteError(
                f"round {int(jax.device_get(state.server.round))}: the scores of client "
                f"{int(np.argmin(ranks.finite))} are not finite",
                state,
            )
        return ranks, weights

    def router_weights(self, state: State) -> np.ndarray:
        """float32 [N, G]: every user's weights over the views `model.fusion.names`."""
        return self._rank(state, "valid")[1]

    def in_user_order(self, per_bucket: Sequence[PyTree]) -> PyTree:
        """Host arrays of the buckets, leaves [n_b, ...], joined into [N, ...] by user."""
        if len(self.buckets) == 1:
            return jax.tree.map(lambda leaf: leaf[: self.dataset.num_users], per_bucket[0])
        order = np.argsort(np.concatenate(self.buckets))
        real = [
            jax.tree.map(lambda leaf: leaf[: len(clients)], part)  # noqa: B023
            for clients, part in zip(self.buckets, per_bucket, strict=True)
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *real)

    @functools.cached_property
    def _recommend(self):
        def recommend(state, histories, features, masked, k):
            over_buckets = self._over_buckets(make_recommended(self.model, k))
            return over_buckets(state, histories, features, masked)

        return compiled(recommend, static_argnames="k")

    def recommend(self, state: State, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of every user that it has neither in train nor in validation.

        Returns:
          (items int32 [N, k], scores float32 [N, k]), best first; a place without a
          candidate left has score -inf.
        """
        masked = self._on_devices(self._owned(k))
        results = self._recommend(state, self.histories, self.features, masked, k)
        scores, items = self.in_user_order(fetch(results))
        return items, scores

    def check_places(self, k: int) -> None:
        """Raises InputError for a number of places that `recommend` cannot fill."""
        if not 1 <= k <= self.dataset.num_items:
            raise InputError(f"--k={k}: give 1 to {self.dataset.num_items}, the number of items")

    def _owned(self, k: int) -> list[ChunkLists]:
        """By bucket, the validation items, which `recommend` leaves out."""
        self.check_places(k)
        return [lists for (lists,) in self._chunk_lists(self.dataset.valid)]

    def pack(self, state: State) -> PyTree:
        """The state as a checkpoint holds it, the same on any devices and from any store.

        Returns:
          {"server": ServerState, "clients": int32 [T], "private": leaves [T, ...]}: rows of
          the clients that have one of their own, in host memory.
        """
        return {
            # Fetched, for one process alone cannot look at what lies in all of them.
            "server": fetch(state.server),
            "clients": np.arange(self.dataset.num_users, dtype=np.int32),
            "private": self.in_user_order(fetch(state.private)),
        }

    def packed_shapes(self, leaves: Mapping[str, Sequence], part: str) -> PyTree:
        """Shapes and dtypes of the packed state `part` of a checkpoint with these leaves.

        Args:
          leaves: {leaf name: (shape, dtype)}, as a checkpoint's meta has them.
        """
        (num_clients,), _ = leaves[f"{part}.clients"]
        row = lambda x: jax.ShapeDtypeStruct((num_clients, *x.shape), x.dtype)
        return {
            "server": self.server_shapes,
            "clients": jax.ShapeDtypeStruct((num_clients,), np.int32),
            "private": jax.tree.map(row, self.client_shapes),
        }

    def unpack(self, packed: PyTree) -> State:
        """The state that was packed, here or elsewhere."""
        place_bucket, place_row = self._place
        clients = np.asarray(packed["clients"])
        values, structure = jax.tree.flatten(packed["private"])
        # Where everyone has a row, only places of nobody are left: any finite number will do.
        everyone = len(clients) == self.dataset.num_users
        begun = shapes_of(self.init) if everyone else self.init()
        buckets = [jax.tree.leaves(rows) for rows in begun.private]
        del begun
        for b, leaves in enumerate(buckets):
            chosen = np.flatnonzero(place_bucket[clients] == b)
            # Leaf by leaf, each old one let go before the new one is put in its place: a run that
            # goes on is to take no more memory than it took before.
            for i, value in enumerate(values):
                old, leaves[i] = leaves[i], None
                whole = np.zeros(old.shape, old.dtype) if everyone else np.array(fetch(old))
                del old
                rows = np.asarray(value)
                for part in in_parts(chosen):
                    whole[place_row[clients[part]]] = rows[part]
                leaves[i] = put(whole, by_client(self.mesh))
        private = tuple(jax.tree.unflatten(structure, leaves) for leaves in buckets)
        return State(put(packed["server"], on_all(self.mesh)), private)

    @functools.cached_property
    def server_shapes(self) -> ServerState:
        """Shapes and dtypes of the server's state."""
        return shapes_of(self._init_server, np.uint32(0), self._initial_items)

    @functools.cached_property
    def client_shapes(self) -> PyTree:
        """Shapes and dtypes of ONE client's private rows."""
        return shapes_of(self.model.init_private, key_of(0))
