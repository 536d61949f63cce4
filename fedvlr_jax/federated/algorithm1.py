"""Algorithm 1 of the paper as it is printed: a loop over the clients of a round.

Read this file first. It has no buckets, no chunks, no sharding and no pull-back that clients share:
every client differentiates through the server's operators and uploads the gradient of the ID
table D, of the operators gamma and of the shared head. The plans in `plans/` compute the same
numbers much faster; `tests/federated/test_algorithm1.py` compares them.

It covers --upload=gradient, --loss=bce and the weighted mean, without clipping, noise,
--history_weight, --defense_* and --groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.data.cohorts import draw_negatives, expected_negatives
from fedvlr_jax.federated.local import Task
from fedvlr_jax.federated.losses import num_rows, row_penalty
from fedvlr_jax.federated.server_optimizer import server_optimizer, server_step
from fedvlr_jax.federated.streams import LOCAL, stream
from fedvlr_jax.settings import compiled
from fedvlr_jax.types import Array, Cohort, Histories, PyTree, Rates, ServerState


class Examples(NamedTuple):
    """The training data of one client in one round.

    Attributes:
      positive: float32 [I], the weight of each item in the history; 0 outside it.
      negative: float32 [A, I], how often each item is a negative in each local epoch.
      length: int32 [], of the history.
    """

    positive: jax.Array
    negative: jax.Array
    length: Array


def examples_of(task: Task, history: Histories, key: jax.Array) -> Examples:
    """Lines 6-7: positives and negatives of ONE client; `history` has no client axis."""
    config, num_items = task.config.federation, task.model.num_items
    weight = 1.0 if history.weight is None else history.weight
    positive = jnp.zeros(num_items).at[history.item].set(weight, mode="drop")
    if config.negatives == "expected":
        rate = expected_negatives(positive, history.count, task.pool, config.num_negatives)
        return Examples(positive, jnp.tile(rate, (config.local_epochs, 1)), history.count)

    def times_drawn(epoch: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, history.client), epoch)
        item = draw_negatives(own, history.item, history.count, task.pool, config.num_negatives)
        return jnp.zeros(num_items).at[item].add(1.0, mode="drop")

    negative = jax.vmap(times_drawn)(jnp.arange(config.local_epochs))
    return Examples(positive, negative, history.count)


def client_loss(
    task: Task,
    features: Mapping[str, jax.Array],
    round_number: jax.Array,
    shared: PyTree,
    private: PyTree,
    examples: Examples,
    epoch: jax.Array,
) -> jax.Array:
    """Eq. 1-6 for ONE client: views, router, fused vectors, scores, loss []."""
    model, positive, negative = task.model, examples.positive, examples.negative[epoch]
    views = model.fusion.views(shared["fusion"], shared["items"], features)  # F [I, G, d]
    pooled = jnp.einsum("i,igd->gd", positive, views) / jnp.maximum(examples.length, 1).astype(
        float
    )
    weights = model.fusion.route(private["router"], pooled.reshape(-1))  # w_u [G]
    common = jnp.einsum("g,igd->id", weights, views)
    personal = private.get("items", jnp.zeros_like(common))
    scores = model.backbone.score(shared["head"], private["head"], common + personal)
    rows = positive * jax.nn.softplus(-scores) + negative * jax.nn.softplus(scores)
    if model.backbone.penalty is not None:
        sizes = jnp.mean(jnp.abs(views), axis=-1)
        penalty = model.backbone.penalty(round_number)
        rows += (positive + negative) * row_penalty(penalty, weights, sizes, common, personal)
    number = num_rows(examples.length, task.pool, task.config.federation.num_negatives)
    return jnp.sum(rows) / number.astype(float)


def train_client(
    task: Task,
    features: Mapping[str, jax.Array],
    server: ServerState,
    private: PyTree,
    examples: Examples,
    local_epochs: Array | int,
    rates: Rates,
) -> tuple[PyTree, PyTree]:
    """Lines 8-12: (the client's rows after its local epochs, its upload like `server.shared`).

    D, gamma and the shared head stay as broadcast; their gradients add up over the epochs.
    """
    steps = {"head": rates.client_lr, "router": rates.router_lr, "items": rates.item_lr}
    if task.model.backbone.item_rows == "tuned":
        private = {**private, "items": jnp.zeros_like(private["items"])}

    def one_epoch(epoch: Any, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        private, upload = carry
        loss = lambda shared, private: client_loss(
            task, features, server.round, shared, private, examples, epoch
        )
        grad_shared, gradient = jax.grad(loss, (0, 1))(server.shared, private)
        decay = lambda g, x: g + rates.client_decay * x
        gradient["head"] = jax.tree.map(decay, gradient["head"], private["head"])
        move = lambda name: jax.tree.map(
            lambda x, g: x - steps[name] * g, private[name], gradient[name]
        )
        return {name: move(name) for name in private}, jax.tree.map(jnp.add, upload, grad_shared)

    nothing = jax.tree.map(jnp.zeros_like, server.shared)
    return jax.lax.fori_loop(0, local_epochs, one_epoch, (private, nothing))


def play_round(
    task: Task,
    features: Mapping[str, jax.Array],
    server: ServerState,
    private: Mapping[int, PyTree],
    cohort: Cohort,
    rates: Rates,
) -> tuple[ServerState, dict[int, PyTree]]:
    """One round: (the server's next state, the clients' rows after it, by client).

    Args:
      private: the rows of every client, by client. cohort: the sampled clients, which respond.
    """
    key = stream(server.key, LOCAL, server.round)

    @compiled
    def run_client(rows: PyTree, history: Histories, local_epochs: jax.Array) -> Any:
        examples = examples_of(task, history, key)
        return train_client(task, features, server, rows, examples, local_epochs, rates)

    after = dict(private)
    total, total_weight = jax.tree.map(jnp.zeros_like, server.shared), jnp.zeros(())
    for place, client in enumerate(cohort.histories.client.tolist()):
        if not cohort.responded[place]:
            continue
        history = jax.tree.map(lambda leaf, place=place: leaf[place], cohort.histories)
        after[client], upload = run_client(private[client], history, cohort.local_epochs[place])
        weight = cohort.weight[place]
        total = jax.tree.map(lambda a, b, w=weight: a + w * b, total, upload)
        total_weight += weight
    mean = jax.tree.map(lambda leaf: leaf / total_weight, total)
    optimizer = server_optimizer(task.config.federation.server_optimizer, rates)
    shared, state = server_step(optimizer, mean, server.optimizer, server.shared)
    return server._replace(round=server.round + 1, shared=shared, optimizer=state), after
