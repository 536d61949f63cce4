"""A data set, a model and a federation put together: the functions a researcher calls.

simulation = make_simulation(config, dataset)
state = simulation.init()
state, metrics = simulation.run_rounds(state, 20)
ranks = simulation.evaluate(state, "valid")
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax import trees
from fedvlr_jax.config import Config
from fedvlr_jax.data.cohorts import (
    bucket_clients,
    multi_hot,
    negative_pool,
    pad_histories,
)
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.metrics import targets_of
from fedvlr_jax.evaluation.ranking import Ranks, count_ahead
from fedvlr_jax.federated.aggregation import server_optimizer
from fedvlr_jax.federated.local import ClientNumbers, Model, Task, make_model
from fedvlr_jax.federated.participation import (
    INIT,
    asked_clients,
    bucket_capacities,
    make_cohort,
    stream,
)
from fedvlr_jax.federated.round import choose_plan, make_round, server_numbers
from fedvlr_jax.types import Histories, PyTree, RoundMetrics, ServerState

# Bytes that the score matrix and its companions of one evaluation chunk may take.
EVALUATION_BYTES = 1 << 28


class NonFiniteError(ArithmeticError):
    """A number was not finite; `state` is the last state whose numbers all were."""

    def __init__(self, message: str, state: State):
        super().__init__(message)
        self.state = state


class State(NamedTuple):
    """A whole simulation: what the server has, and every client's private rows.

    `private` holds one stacked pytree a bucket of clients (see `Simulation.buckets`).
    """

    server: ServerState
    private: tuple[PyTree, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Simulation:
    """Compiled functions over one data set; make it with `make_simulation`.

    Attributes:
      buckets: the user indices of each bucket; together every user once.
      plan: "dense" or "gathered", how local epochs are executed.
    """

    config: Config
    dataset: Dataset
    model: Model
    task: Task
    buckets: tuple[np.ndarray, ...]
    histories: tuple[Histories, ...]
    features: dict[str, jax.Array]
    plan: str

    def init(self, seed: int | None = None) -> State:
        """The state before the first round; `seed` defaults to the config's."""
        seed = self.config.run.seed if seed is None else seed
        return self._init(jax.random.key(seed))

    @functools.cached_property
    def _init(self):
        federation = self.config.federation
        optimizer = server_optimizer(federation.server_optimizer, federation.rates)

        def init(key: jax.Array) -> State:
            shared = self.model.init_shared(stream(key, INIT))
            client = lambda c: self.model.init_private(stream(key, INIT, c))
            private = tuple(jax.vmap(client)(h.client) for h in self.histories)
            server = ServerState(
                round=jnp.zeros((), jnp.int32),
                key=key,
                shared=shared,
                optimizer=optimizer.init(shared),
            )
            return State(server, private)

        return jax.jit(init)

    @property
    def state_bytes(self) -> int:
        """Bytes of a state (an early-stopping run holds two)."""
        return trees.num_bytes(jax.eval_shape(self._init, jax.random.key(0)))

    def run_rounds(self, state: State, num_rounds: int) -> tuple[State, RoundMetrics]:
        """Runs rounds in one compiled call; the state passed in is used up (donated).

        Returns:
          The new state, and the metrics of each round as NumPy arrays [num_rounds].

        Raises:
          NonFiniteError: a loss or an update was not finite. The error carries the state
            before that round as `.state`.
        """
        first = int(state.server.round)
        schedule = self.schedule(self.config.run.seed, first, num_rounds)
        rates = self.config.federation.rates
        state, metrics = self._run(
            state, self.histories, self.features, rates, schedule, num_rounds
        )
        metrics = jax.device_get(metrics)
        if not metrics.finite.all():
            at = int(np.argmin(metrics.finite))
            raise NonFiniteError(self._describe_failure(first, at, metrics, state), state)
        return state, metrics

    @staticmethod
    def _describe_failure(first: int, at: int, metrics: RoundMetrics, state: State) -> str:
        """The round, the client and the leaf of the failure that `metrics` has at place `at`."""
        client = int(metrics.bad_client[at])
        where = f"client {client}" if client >= 0 else "the server's step"
        numbers: PyTree = (
            ClientNumbers(metrics.loss, **state.private[0])
            if client >= 0
            else server_numbers(state.server)
        )
        leaf = list(trees.named_leaves(numbers))[metrics.bad_leaf[at]]
        return (
            f"round {first + at}: a non-finite number at {where}, leaf {leaf}; the state before "
            "that round was kept; lower --client_lr, --router_lr, --item_lr or the --server_lr_* "
            "flags"
        )

    def schedule(self, seed: int, first: int, num_rounds: int) -> tuple[jax.Array, ...] | None:
        """Rows of each bucket asked in each round, int32 [rounds, K_b]; None asks everyone.

        Args:
          seed: of the run. first: the first round.
        """
        cohort, num_clients = self.config.federation.cohort, self.dataset.num_users
        if cohort == 0 or cohort >= num_clients:
            return None
        capacities = bucket_capacities([len(b) for b in self.buckets], cohort)
        asked = [asked_clients(seed, first + r, num_clients, cohort) for r in range(num_rounds)]
        schedule = []
        for clients, capacity in zip(self.buckets, capacities, strict=True):
            rows = [np.flatnonzero(np.isin(clients, ids, assume_unique=True)) for ids in asked]
            # A draw beyond the kept places is served too: it costs one more compilation.
            capacity = max(capacity, *(len(r) for r in rows))
            padded = np.full((num_rounds, capacity), len(clients), np.int32)
            for line, row in zip(padded, rows, strict=True):
                line[: len(row)] = row
            schedule.append(jnp.asarray(padded))
        return tuple(schedule)

    @functools.cached_property
    def run_function(self):
        """(state, histories, features, rates, schedule, num_rounds) -> (state, metrics), pure."""
        round_fn = make_round(self.task, self.plan)
        weight = self.model.backbone.weight
        federation = self.config.federation

        def cohorts_of(server, histories, asked):
            return tuple(
                make_cohort(server.key, server.round, h, a, weight, federation)
                for h, a in zip(histories, asked, strict=True)
            )

        def everyone(state, histories, features, rates):
            asked = tuple(jnp.ones(h.count.shape, bool) for h in histories)
            cohorts = cohorts_of(state.server, histories, asked)
            server, private, metrics = round_fn(
                state.server, state.private, cohorts, features, rates
            )
            return State(server, private), metrics

        def some(state, histories, features, rates, rows):
            take = lambda leaf, row: leaf.at[row].get(mode="clip")
            chosen = tuple(
                jax.tree.map(lambda leaf, row=row: take(leaf, row), h)
                for h, row in zip(histories, rows, strict=True)
            )
            asked = tuple(row < h.count.shape[0] for h, row in zip(histories, rows, strict=True))
            chosen = tuple(
                dataclasses.replace(h, count=jnp.where(a, h.count, 0))
                for h, a in zip(chosen, asked, strict=True)
            )
            cohorts = cohorts_of(state.server, chosen, asked)
            private = tuple(
                jax.tree.map(lambda leaf, row=row: take(leaf, row), p)
                for p, row in zip(state.private, rows, strict=True)
            )
            server, private, metrics = round_fn(state.server, private, cohorts, features, rates)
            stored = tuple(
                jax.tree.map(lambda old, new, row=row: old.at[row].set(new, mode="drop"), p, n)
                for p, n, row in zip(state.private, private, rows, strict=True)
            )
            return State(server, stored), metrics

        def run(state, histories, features, rates, schedule, num_rounds):
            def step(state, rows):
                if rows is None:
                    return everyone(state, histories, features, rates)
                return some(state, histories, features, rates, rows)

            return jax.lax.scan(step, state, schedule, length=num_rounds)

        return run

    @functools.cached_property
    def _run(self):
        return jax.jit(self.run_function, static_argnames="num_rounds", donate_argnums=0)

    @functools.cached_property
    def _score(self):
        """(views, head, private of a chunk, histories of a chunk) -> (scores, weights)."""
        backbone, fusion, num_items = self.model.backbone, self.model.fusion, self.model.num_items

        def score_client(views, head, private, vectors_of):
            vectors = vectors_of
            if "items" in private:
                vectors = vectors + private["items"]
            return backbone.score(head, private["head"], vectors)

        def score(shared, views, private, histories):
            flat = views.reshape(num_items, -1)
            positive = multi_hot(histories, num_items)
            pooled = (positive @ flat) / jnp.maximum(histories.count, 1)[:, None]
            weights = jax.vmap(fusion.route)(private["router"], pooled)
            if backbone.linear is None:
                vectors = jnp.einsum("kg,igd->kid", weights, views)
                in_axes = (None, None, 0, 0)
                scores = jax.vmap(score_client, in_axes)(views, shared["head"], private, vectors)
            else:
                vector, bias = (
                    jax.vmap(backbone.linear, (None, 0))(shared["head"], private["head"])
                    if jax.tree.leaves(private["head"])
                    else jax.tree.map(
                        lambda leaf: jnp.broadcast_to(leaf, (len(pooled), *leaf.shape)),
                        backbone.linear(shared["head"], private["head"]),
                    )
                )
                query = (weights[:, :, None] * vector[:, None, :]).reshape(len(pooled), -1)
                scores = query @ flat.T + bias[:, None]
                if "items" in private:
                    scores += jnp.einsum("kid,kd->ki", private["items"], vector)
            return scores, weights, positive > 0

        return score

    def _chunk(self) -> int:
        """Users scored at once in an evaluation."""
        row = self.model.num_items * (1 if self.model.backbone.linear else 4 * self.model.width)
        return max(1, EVALUATION_BYTES // (24 * row))

    @functools.cached_property
    def evaluate_function(self):
        """(state, histories, features, targets, masked) -> per bucket (Ranks, weights), pure."""
        score, chunk = self._score, self._chunk()

        def evaluate(state, histories, features, targets, masked):
            shared = state.server.shared
            views = self.model.fusion.views(shared["fusion"], shared["items"], features)

            def one(inputs):
                private, history, target, mask = inputs
                scores, weights, seen = score(shared, views, private, history)
                extra = dataclasses.replace(history, item=mask)
                seen |= multi_hot(extra, self.model.num_items) > 0
                return count_ahead(scores, target, seen), weights

            return tuple(
                _map_chunks(one, inputs, chunk)
                for inputs in zip(state.private, histories, targets, masked, strict=True)
            )

        return evaluate

    @functools.cached_property
    def _evaluate(self):
        return jax.jit(self.evaluate_function)

    @functools.cached_property
    def targets(self) -> dict[str, tuple[tuple, tuple]]:
        """part -> per bucket (targets [n_b, T], items masked beside the history [n_b, V])."""
        none = np.full((self.dataset.num_users, 1), -1, np.int32)
        valid, test = targets_of(self.dataset.valid), targets_of(self.dataset.test)
        mask_test = valid if self.config.evaluation.mask == "train+valid" else none
        beyond = lambda items: np.where(items < 0, self.dataset.num_items, items)
        tables = {"valid": (valid, none), "test": (test, mask_test)}
        return {
            part: (
                tuple(jnp.asarray(targets[b]) for b in self.buckets),
                tuple(jnp.asarray(beyond(mask)[b]) for b in self.buckets),
            )
            for part, (targets, mask) in tables.items()
        }

    def evaluate(self, state: State, part: str) -> Ranks:
        """Ranks of every user's held-out items of "valid" or "test" among all items.

        Masked are the user's train items and, for the test part under the strict
        protocol, its validation items.

        Returns:
          `Ranks` of NumPy arrays in user order: ahead, tied [N, T], finite [N].

        Raises:
          NonFiniteError: a score was not finite.
        """
        targets, masked = self.targets[part]
        results = self._evaluate(state, self.histories, self.features, targets, masked)
        ranks = self.in_user_order([ranks for ranks, _ in jax.device_get(results)])
        if not ranks.finite.all():
            raise NonFiniteError(
                f"round {int(state.server.round)}: the scores of client "
                f"{int(np.argmin(ranks.finite))} are not finite",
                state,
            )
        return ranks

    def router_weights(self, state: State) -> np.ndarray:
        """float32 [N, G]: every user's weights over the views `model.fusion.names`."""
        targets, masked = self.targets["valid"]
        results = self._evaluate(state, self.histories, self.features, targets, masked)
        return self.in_user_order([weights for _, weights in jax.device_get(results)])

    def in_user_order(self, per_bucket: Sequence[PyTree]) -> PyTree:
        """Host arrays of the buckets, leaves [n_b, ...], joined into [N, ...] by user."""
        order = np.argsort(np.concatenate(self.buckets))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *per_bucket)

    @functools.cached_property
    def _recommend(self):
        score, chunk = self._score, self._chunk()

        @functools.partial(jax.jit, static_argnames="k")
        def recommend(state, histories, features, masked, k):
            shared = state.server.shared
            views = self.model.fusion.views(shared["fusion"], shared["items"], features)

            def one(inputs):
                private, history, mask = inputs
                scores, _, seen = score(shared, views, private, history)
                extra = dataclasses.replace(history, item=mask)
                seen |= multi_hot(extra, self.model.num_items) > 0
                return jax.lax.top_k(jnp.where(seen, -jnp.inf, scores), k)

            return tuple(
                _map_chunks(one, inputs, chunk)
                for inputs in zip(state.private, histories, masked, strict=True)
            )

        return recommend

    def recommend(self, state: State, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of every user that it has neither in train nor in validation.

        Returns:
          (items int32 [N, k], scores float32 [N, k]), best first; a place without a
          candidate left has score -inf.
        """
        if not 1 <= k <= self.dataset.num_items:
            raise InputError(f"--k={k}: give 1 to {self.dataset.num_items}, the number of items")
        valid = targets_of(self.dataset.valid)
        beyond = np.where(valid < 0, self.dataset.num_items, valid)
        masked = tuple(jnp.asarray(beyond[b]) for b in self.buckets)
        results = self._recommend(state, self.histories, self.features, masked, k)
        scores, items = self.in_user_order(list(jax.device_get(results)))
        return items, scores


def _map_chunks(function, inputs: PyTree, chunk: int) -> PyTree:
    """`function` over leading-axis chunks of `inputs`, results joined."""
    size = jax.tree.leaves(inputs)[0].shape[0]
    if size <= chunk:
        return function(inputs)
    whole = size // chunk * chunk
    split = lambda leaf: leaf[:whole].reshape(-1, chunk, *leaf.shape[1:])
    results = jax.lax.map(function, jax.tree.map(split, inputs))
    results = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), results)
    if whole == size:
        return results
    rest = function(jax.tree.map(lambda leaf: leaf[whole:], inputs))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), results, rest)


def make_simulation(config: Config, dataset: Dataset) -> Simulation:
    """Prepares `dataset` for the federation that `config` describes.

    Raises:
      InputError: choices that do not fit the data set.
    """
    widths = {name: feature.shape[1] for name, feature in dataset.features.items()}
    model = make_model(config, dataset.num_items, widths)
    if config.federation.cohort > dataset.num_users:
        raise InputError(
            f"--cohort={config.federation.cohort}: the data set has {dataset.num_users} users"
        )
    task = Task(model, config, negative_pool(dataset.train, config.evaluation.negative_pool))
    # Only where rows are gathered does the padding of a history cost anything.
    by_length = bucket_clients(dataset.train, by_length=True)
    lengths = [int(dataset.train.counts[b].max()) for b in by_length]
    plan = choose_plan(task, lengths, [len(b) for b in by_length])
    per_history = plan == "gathered" or config.federation.negatives == "sampled"
    buckets = by_length if per_history else bucket_clients(dataset.train, by_length=False)
    return Simulation(
        config=config,
        dataset=dataset,
        model=model,
        task=task,
        buckets=tuple(buckets),
        histories=tuple(pad_histories(dataset.train, b) for b in buckets),
        features={name: jnp.asarray(x) for name, x in dataset.features.items()},
        plan=plan,
    )
