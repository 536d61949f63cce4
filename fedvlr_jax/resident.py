"""A simulation whose clients all live on the devices: many rounds are one compiled call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import targets_of
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.federated.aggregation import server_optimizer
from fedvlr_jax.federated.devices import (
    by_client,
    constrain,
    fetch,
    on_all,
    on_each_device,
    padded,
    put,
)
from fedvlr_jax.federated.local import ClientNumbers, Model, Task
from fedvlr_jax.federated.participation import (
    INIT,
    asked_clients,
    bucket_capacities,
    make_cohorts,
    seed_of,
    stream,
)
from fedvlr_jax.federated.round import make_round, server_numbers
from fedvlr_jax.federated.scoring import (
    clients_at_once,
    in_chunks,
    make_ranks,
    make_recommended,
    views_of,
)
from fedvlr_jax.federated.start import Start
from fedvlr_jax.federated.store import in_parts
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulation:
    """Compiled functions over one data set; made by `simulation.make_simulation`.

    Attributes:
      buckets: the user indices of each bucket; together every user once.
      histories: of each bucket, and rows of no client up to a multiple of GROUPS.
      plan: a name of `round.PLANS`, how local epochs are executed.
      start: what training begins with in closed form; None where all is drawn.
      mesh: the devices that share the clients; None for one.
    """

    config: Config
    dataset: Dataset
    model: Model
    task: Task
    buckets: tuple[np.ndarray, ...]
    histories: tuple[Histories, ...]
    features: dict[str, jax.Array]
    plan: str
    start: Start | None
    mesh: Mesh | None

    def init(self, seed: int | None = None) -> State:
        """The state before the first round; `seed` defaults to the config's."""
        server = self._init_server(
            np.uint32(self.config.run.seed if seed is None else seed), self._start_items
        )
        clients = tuple(history.client for history in self.histories)
        begun = None
        if self.start is not None:
            rows = {name: self._by_bucket(table, 0) for name, table in self.start.clients.items()}
            begun = tuple({name: rows[name][b] for name in rows} for b in range(len(clients)))
        return State(server, self._init_private(server.key, clients, begun))

    @property
    def _start_items(self) -> np.ndarray | None:
        return None if self.start is None else self.start.items

    @functools.cached_property
    def _init_server(self):
        federation = self.config.federation
        optimizer = server_optimizer(federation.server_optimizer, federation.rates)

        def init(seed: jax.Array, items: jax.Array | None) -> ServerState:
            key = jax.random.key(seed)
            shared = self.model.init_shared(stream(key, INIT))
            if items is not None:
                silent = self.model.fusion.silent
                assert silent is not None
                shared |= {"items": items, "fusion": silent(shared["fusion"])}
            return ServerState(
                round=jnp.zeros((), jnp.int32),
                key=key,
                shared=shared,
                optimizer=optimizer.init(shared),
            )

        return jax.jit(init, out_shardings=on_all(self.mesh))

    @functools.cached_property
    def _init_private(self):
        """(key, clients [K] of each bucket, their `Start.clients` or None) -> their rows before
        the first round."""

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

        return jax.jit(init, out_shardings=by_client(self.mesh))

    @property
    def state_bytes(self) -> int:
        """Bytes of a state (an early-stopping run holds two)."""
        return trees.num_bytes(jax.eval_shape(self.init))

    def run_rounds(self, state: State, num_rounds: int) -> tuple[State, RoundMetrics]:
        """Runs rounds in one compiled call; the state passed in is used up (donated).

        How many there are changes no bit.

        Returns:
          The new state, and the metrics of each round as NumPy arrays [num_rounds].

        Raises:
          NonFiniteError: a loss or an update was not finite. The error carries the state
            before that round as `.state`.
        """
        first = int(state.server.round)
        if num_rounds < 1:
            raise InputError(f"num_rounds={num_rounds}: give at least 1")
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

    def _describe_failure(self, round_number: int, metrics: RoundMetrics, state: State) -> str:
        """The round, the client and the leaf of the failure that one round's metrics tell of."""
        client = int(metrics.bad_client)
        where = f"client {client}" if client >= 0 else "the server's step"
        numbers: PyTree = (
            ClientNumbers(metrics.loss, **self.client_shapes)
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

    def asked_rows(self, seed: int, round_number: int) -> list[np.ndarray]:
        """Of each bucket, the rows of the clients that a round asks, ascending."""
        cohort, num_clients = self.config.federation.cohort, self.dataset.num_users
        if not self.samples:
            return [np.arange(len(clients)) for clients in self.buckets]
        asked = asked_clients(seed, round_number, num_clients, cohort)
        bucket, row = (of[asked] for of in self._place)
        return [row[bucket == b] for b in range(len(self.buckets))]

    @property
    def samples(self) -> bool:
        """Whether a round asks only some clients."""
        return 0 < self.config.federation.cohort < self.dataset.num_users

    @functools.cached_property
    def capacities(self) -> list[int]:
        """Rows that one round keeps for each bucket, a multiple of GROUPS."""
        sizes = [len(clients) for clients in self.buckets]
        if self.samples:
            sizes = bucket_capacities(sizes, self.config.federation.cohort)
        return [padded(size) for size in sizes]

    def schedule(
        self, seed: int, first: int, num_rounds: int, places: int
    ) -> tuple[np.ndarray, ...] | None:
        """Rows of each bucket asked in each round, int32 [places, K_b]; None asks everyone.

        Args:
          seed: of the run. first: the first round.
          places: at least num_rounds; in those beyond, nobody is asked.
        """
        if not self.samples:
            return None
        asked = [self.asked_rows(seed, first + r) for r in range(num_rounds)]
        schedule = []
        for b, (history, capacity) in enumerate(zip(self.histories, self.capacities, strict=True)):
            # A draw beyond the kept places is served too: it costs one more compilation.
            capacity = padded(max(capacity, *(len(rows[b]) for rows in asked)))
            of_rounds = np.full((places, capacity), history.count.shape[0], np.int32)
            for line, rows in zip(of_rounds, asked, strict=False):
                line[: len(rows[b])] = rows[b]
            schedule.append(of_rounds)
        return tuple(schedule)

    @functools.cached_property
    def run_function(self):
        """(state, histories, features, rates, schedule, num_rounds, places) -> (state, metrics
        [places] of which the first num_rounds count), pure; only `places` must be static."""
        round_fn = make_round(self.task, self.plan, self.mesh)
        spread = by_client(self.mesh)
        weight = self.model.backbone.weight
        federation = self.config.federation

        def cohorts_of(server, histories, asked):
            return make_cohorts(server, histories, asked, weight, federation)

        def everyone(state, histories, features, rates, ok):
            asked = tuple((h.count > 0) & ok for h in histories)
            cohorts = cohorts_of(state.server, histories, asked)
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
            asked = tuple(
                (row < h.count.shape[0]) & ok for h, row in zip(histories, rows, strict=True)
            )
            chosen = tuple(
                dataclasses.replace(h, count=jnp.where(a, h.count, 0))
                for h, a in zip(chosen, asked, strict=True)
            )
            cohorts = constrain(cohorts_of(state.server, chosen, asked), spread)
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
                return some(state, histories, features, rates, rows, ok)

            def step(number, carried):
                # After a round that was not finite nobody is asked any more, which leaves every
                # leaf as it is; a conditional would copy the private rows.
                state, collected, ok = carried
                before = state.server.round
                state, metrics = one(state, number, ok)
                server = state.server._replace(round=jnp.where(ok, state.server.round, before))
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
        return jax.jit(self.run_function, static_argnames="places", donate_argnums=0)

    @functools.cached_property
    def evaluate_function(self):
        """(state, histories, features, targets, masked) -> per bucket (Ranks, weights), pure."""
        ranks, chunk = make_ranks(self.model), clients_at_once(self.model)

        def of_bucket(shared, views, inputs):
            return in_chunks(lambda each: ranks(shared, views, *each), inputs, chunk)

        spread = on_each_device(of_bucket, self.mesh)

        def evaluate(state, histories, features, targets, masked):
            shared = state.server.shared
            views = views_of(self.model, shared, features)
            buckets = zip(state.private, histories, targets, masked, strict=True)
            return tuple(spread(shared, views, inputs) for inputs in buckets)

        return evaluate

    @functools.cached_property
    def _evaluate(self):
        return jax.jit(self.evaluate_function)

    @functools.cached_property
    def held_out(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """part -> (targets [N, T], -1 beyond; items masked beside the history [N, V], I beyond)."""
        none = np.full((self.dataset.num_users, 1), -1, np.int32)
        valid, test = targets_of(self.dataset.valid), targets_of(self.dataset.test)
        mask_test = valid if self.config.evaluation.mask == "train+valid" else none
        beyond = lambda items: np.where(items < 0, self.dataset.num_items, items)
        return {"valid": (valid, beyond(none)), "test": (test, beyond(mask_test))}

    @functools.cached_property
    def targets(self) -> dict[str, tuple[tuple, tuple]]:
        """`held_out` by bucket, on the devices."""
        return {
            part: (self._by_bucket(targets, -1), self._by_bucket(masked, self.dataset.num_items))
            for part, (targets, masked) in self.held_out.items()
        }

    def _by_bucket(self, table: np.ndarray, nothing: int) -> tuple[jax.Array, ...]:
        """The rows of `table` [N, T] by bucket; `nothing` in the rows of no client."""
        rows = []
        for clients, history in zip(self.buckets, self.histories, strict=True):
            missing = history.count.shape[0] - len(clients)
            table_rows = np.pad(table[clients], ((0, missing), (0, 0)), constant_values=nothing)
            rows.append(put(table_rows, by_client(self.mesh)))
        return tuple(rows)

    def _rank(self, state: State, part: str) -> tuple[Ranks, np.ndarray]:
        """`ranks_and_weights`, finite or not."""
        targets, masked = self.targets[part]
        results = self._evaluate(state, self.histories, self.features, targets, masked)
        return self.in_user_order(fetch(results))

    def evaluate(self, state: State, part: str) -> Ranks:
        """Ranks of every user's held-out items of "valid" or "test" among all items.

        Masked are the user's train items and, for the test part under the strict
        protocol, its validation items.

        Returns:
          `Ranks` of NumPy arrays in user order: ahead, tied [N, T], finite [N].

        Raises:
          NonFiniteError: a score was not finite.
        """
        return self.ranks_and_weights(state, part)[0]

    def ranks_and_weights(self, state: State, part: str) -> tuple[Ranks, np.ndarray]:
        """What `evaluate` and `router_weights` return, in one pass over the clients."""
        ranks, weights = self._rank(state, part)
        if not ranks.finite.all():
            raise NonFiniteError(
                f"round {int(state.server.round)}: the scores of client "
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
        @functools.partial(jax.jit, static_argnames="k")
        def recommend(state, histories, features, masked, k):
            recommended, chunk = make_recommended(self.model, k), clients_at_once(self.model)
            shared = state.server.shared
            views = views_of(self.model, shared, features)

            def of_bucket(shared, views, inputs):
                return in_chunks(lambda each: recommended(shared, views, *each), inputs, chunk)

            spread = on_each_device(of_bucket, self.mesh)
            buckets = zip(state.private, histories, masked, strict=True)
            return tuple(spread(shared, views, inputs) for inputs in buckets)

        return recommend

    def recommend(self, state: State, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of every user that it has neither in train nor in validation.

        Returns:
          (items int32 [N, k], scores float32 [N, k]), best first; a place without a
          candidate left has score -inf.
        """
        masked = self._by_bucket(self._owned(k), self.dataset.num_items)
        results = self._recommend(state, self.histories, self.features, masked, k)
        scores, items = self.in_user_order(fetch(results))
        return items, scores

    def check_places(self, k: int) -> None:
        """Raises InputError for a number of places that `recommend` cannot fill."""
        if not 1 <= k <= self.dataset.num_items:
            raise InputError(f"--k={k}: give 1 to {self.dataset.num_items}, the number of items")

    def _owned(self, k: int) -> np.ndarray:
        """The validation items [N, V], I beyond, that `recommend` leaves out."""
        self.check_places(k)
        valid = targets_of(self.dataset.valid)
        return np.where(valid < 0, self.dataset.num_items, valid)

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
        begun = jax.eval_shape(self.init) if everyone else self.init()
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
        return jax.eval_shape(self._init_server, np.uint32(0), self._start_items)

    @functools.cached_property
    def client_shapes(self) -> PyTree:
        """Shapes and dtypes of ONE client's private rows."""
        return jax.eval_shape(self.model.init_private, jax.random.key(0))
