"""Local epochs of a linear backbone as dense linear algebra over the whole catalogue.

With a linear head a score is <F_i, q> + b, q = w (x) theta [G * d]. Let r_a [I] be the
gradient of a client's loss by its scores in epoch a, q_a its query and p_a the gradient
by its pooled history, divided by the length of that history. Then the gradient by the
views, over the A epochs, has rank A + 1:

    sum_a r_a (x) q_a  +  h (x) sum_a p_a,        h the multi-hot history,

so that a client's upload is never built (`uplink.uploads.LowRankUploads`): the cohort's
weighted sum is one matrix product. For the same reason a copy of the views
that the client moves (upload=delta), or item rows that it tunes, are known by these
factors, and enter the scores as a correction of rank A.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.data.cohorts import draw_negatives, expected_negatives, multi_hot
from fedvlr_jax.federated.local import (
    Broadcast,
    ClientNumbers,
    LocalResult,
    LocalUpdate,
    Task,
    client_keys,
    make_loss,
    num_rows,
)
from fedvlr_jax.federated.matmul_precision import make_product
from fedvlr_jax.federated.routing import Routers, make_routing
from fedvlr_jax.types import Cohort, PyTree
from fedvlr_jax.uplink.uploads import LowRankUploads


def fits_dense(task: Task) -> bool:
    """Whether the plan can train these clients.

    A personal item table is of full rank, and a history term is quadratic in the views.
    """
    backbone = task.model.backbone
    linear = backbone.linear is not None and backbone.item_rows != "personal"
    return linear and not task.model.history_weight


class Factors(NamedTuple):
    """What the clients' epochs did, A of them, 0 for those to come.

    Attributes:
      residual: r [A, K, I]. query: q [A, K, G * d]. pull: p [A, K, G * d].
      vector: theta [A, K, d], by which tuned item rows move.
    """

    residual: jax.Array
    query: jax.Array
    pull: jax.Array
    vector: jax.Array


class Carry(NamedTuple):
    """From epoch to epoch; `shared` is the sum of gradients by the shared head, `loss` that of the
    first epoch."""

    head: PyTree
    routers: Routers
    shared: PyTree
    factors: Factors
    loss: jax.Array


class Moving(NamedTuple):
    """The steps of the rows that a client moves itself; None where they stay.

    Attributes:
      views: of its copy of the views, with upload=delta. items: of the item rows that it tunes.
    """

    views: jax.Array | None
    items: jax.Array | None


def no_factors(
    clients: int, epochs: int, views: tuple[int, ...], width: int, dtype: jnp.dtype
) -> Factors:
    """What `remember` fills, for views of shape [I, G * d]."""
    num_items, size = views
    zeros = lambda *last: jnp.zeros((epochs, clients, *last), dtype)
    return Factors(zeros(num_items), zeros(size), zeros(size), zeros(width))


def remember(factors: Factors, now: Factors, epoch: jax.Array) -> Factors:
    """`factors` with an epoch's own, `now`, which have no axis of epochs."""
    return Factors(*(all.at[epoch].set(new) for all, new in zip(factors, now, strict=True)))


def corrected_pooled(
    pooled: jax.Array, factors: Factors, positive: jax.Array, length: jax.Array, moving: Moving
) -> jax.Array:
    """The pooled histories [K, G * d] over the views as a client moved them."""
    if moving.views is None:
        return pooled
    inside = jnp.einsum("aki,ki->ak", factors.residual, positive) / length[None, :, 0]
    moved = jnp.einsum("ak,akg->kg", inside, factors.query)
    # The pull moves a row by how much its item counts, which then counts as much in the mean.
    twice = jnp.sum(jnp.square(positive), axis=1, keepdims=True) / length
    moved += twice * jnp.sum(factors.pull, axis=0)
    return pooled - moving.views * moved


def corrected_scores(
    scores: jax.Array,
    factors: Factors,
    positive: jax.Array,
    query: jax.Array,
    vector: jax.Array,
    moving: Moving,
) -> jax.Array:
    """The scores [K, I] by the views and item rows as a client moved them."""
    if moving.views is not None:
        along = jnp.einsum("akg,kg->ak", factors.query, query)
        scores -= moving.views * jnp.einsum("aki,ak->ki", factors.residual, along)
        scores -= moving.views * positive * jnp.einsum("akg,kg->k", factors.pull, query)[:, None]
    if moving.items is not None:
        along = jnp.einsum("akd,kd->ak", factors.vector, vector)
        scores -= moving.items * jnp.einsum("aki,ak->ki", factors.residual, along)
    return scores


def corrected_gradients(
    by_query: jax.Array, factors: Factors, positive: jax.Array, residual: jax.Array, moving: Moving
) -> tuple[jax.Array, jax.Array]:
    """The gradients by the query [K, G * d], and by the vector [K, d] beside it, where the rows
    are those that a client moved."""
    by_vector = jnp.zeros_like(factors.vector[0])
    if moving.views is None and moving.items is None:
        return by_query, by_vector
    overlap = jnp.einsum("ki,aki->ak", residual, factors.residual)
    if moving.views is not None:
        in_history = jnp.einsum("ki,ki->k", residual, positive)[:, None]
        moved = jnp.einsum("ak,akg->kg", overlap, factors.query)
        by_query -= moving.views * (moved + in_history * jnp.sum(factors.pull, axis=0))
    if moving.items is not None:
        by_vector -= moving.items * jnp.einsum("ak,akd->kd", overlap, factors.vector)
    return by_query, by_vector


def make_dense_update(task: Task) -> LocalUpdate:
    """The dense plan, for a task that `fits_dense`."""
    model, config = task.model, task.config.federation
    backbone, epochs = model.backbone, config.local_epochs
    product = make_product(config.matmul_precision)
    delta, tuned_rows = config.upload == "delta", backbone.item_rows == "tuned"
    routing = make_routing(model.fusion, pooled_stays=not delta)
    loss_of = make_loss(task)
    assert backbone.linear is not None
    linear = backbone.linear

    def query_of(shared, head, router, pooled):
        """One client: (q [G * d], the head's vector [d], bias [])."""
        vector, bias = linear(shared, head)
        weights = routing.weights(router, pooled)
        return (weights[:, None] * vector[None, :]).reshape(-1), vector, bias

    def update(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> LocalResult:
        histories, rates = cohort.histories, broadcast.rates
        num_clients = histories.item.shape[0]
        moving = Moving(rates.delta_lr if delta else None, rates.item_lr if tuned_rows else None)
        views = broadcast.views.reshape(model.num_items, -1)
        positive = multi_hot(histories, model.num_items)
        rows = num_rows(histories.count, task.pool, config.num_negatives)[:, None]
        length = jnp.maximum(histories.count, 1)[:, None]
        rows, length = rows.astype(views.dtype), length.astype(views.dtype)
        broadcast_pooled = product("ki,ig->kg", positive, views) / length
        keys = client_keys(key, histories.client, epochs)
        expected = expected_negatives(positive, histories.count, task.pool, config.num_negatives)
        shared0 = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_clients, *leaf.shape)), broadcast.head
        )

        def negatives(epoch):
            if config.negatives == "expected":
                return expected
            drawn = jax.vmap(draw_negatives, in_axes=(0, 0, 0, None, None))(
                keys[:, epoch], histories.item, histories.count, task.pool, config.num_negatives
            )
            row = jnp.arange(num_clients)[:, None]
            return jnp.zeros_like(positive).at[row, drawn].add(1.0, mode="drop")

        def epoch_step(carry: Carry, epoch):
            head, routers, shared_sum, factors, first_loss = carry
            active = cohort.responded & (epoch < cohort.local_epochs)
            shared = trees.axpy(-rates.delta_lr, shared_sum, shared0) if delta else shared0
            pooled = corrected_pooled(broadcast_pooled, factors, positive, length, moving)
            (query, vector, bias), pull_back = jax.vjp(
                jax.vmap(query_of), shared, head, routers.params, pooled
            )
            scores = product("kg,ig->ki", query, views) + bias[:, None]
            scores = corrected_scores(scores, factors, positive, query, vector, moving)

            negative = negatives(epoch)
            residual = loss_of.slope(scores, positive, negative) / rows
            residual = jnp.where(active[:, None], residual, 0.0)
            by_query, by_vector = corrected_gradients(
                product("ki,ig->kg", residual, views), factors, positive, residual, moving
            )
            by_shared, by_head, by_router, by_pooled = pull_back(
                (by_query, by_vector, jnp.sum(residual, axis=1))
            )

            by_head = trees.axpy(rates.client_decay, head, by_head)
            now = Factors(residual, query, by_pooled / length, vector)
            carry = Carry(
                head=trees.select(active, trees.axpy(-rates.client_lr, by_head, head), head),
                routers=routing.step(routers, by_router, active, rates.router_lr),
                shared=trees.axpy(1.0, by_shared, shared_sum),
                factors=remember(factors, now, epoch),
                # The loss is reported where the client stood when the round began.
                loss=jax.lax.cond(
                    epoch == 0,
                    lambda: loss_of.value(scores, positive, negative) / rows[:, 0],
                    lambda: first_loss,
                ),
            )
            return carry, None

        start = Carry(
            head=private["head"],
            routers=routing.start(private["router"], broadcast_pooled),
            shared=jax.tree.map(jnp.zeros_like, shared0),
            factors=no_factors(num_clients, epochs, views.shape, model.width, views.dtype),
            loss=jnp.zeros(num_clients, views.dtype),
        )
        end, _ = jax.lax.scan(epoch_step, start, jnp.arange(epochs))
        router, by_pooled = routing.finish(
            private["router"], end.routers, broadcast_pooled, rates.router_lr
        )
        factors, pull = end.factors, jnp.sum(end.factors.pull, axis=0) + by_pooled / length

        trained = {"head": end.head, "router": router}
        if tuned_rows:
            moved = jnp.einsum("aki,akd->kid", factors.residual, factors.vector)
            trained["items"] = -rates.item_lr * moved
        return LocalResult(
            private=trained,
            uploads=LowRankUploads(
                residual=factors.residual,
                query=factors.query,
                positive=positive,
                pull=pull,
                head=end.shared,
                scale=rates.delta_lr if delta else 1.0,
                views=broadcast.views.shape[1:],
                product=product,
            ),
            loss=jnp.where(cohort.responded, end.loss, 0.0),
            bad_leaf=trees.bad_leaf_of_rows(ClientNumbers(end.loss, **trained), num_clients),
        )

    return update
