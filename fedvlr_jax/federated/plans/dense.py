"""Local epochs of a linear backbone as dense linear algebra over the whole catalogue.

With a linear head a score is <F_i, q> + b, q = w (x) theta [G * d]. Let r_a [I] be the
gradient of a client's loss by its scores in epoch a, q_a its query and p_a the gradient
by its pooled history, divided by the length of that history. Then the gradient by the
views, over the A epochs, has rank A + 1:

    sum_a r_a (x) q_a  +  h (x) sum_a p_a,        h the multi-hot history.

A client's upload is therefore never built (`uplink.LowRankUploads`): the cohort's
weighted sum is one matrix product. The same factors describe the copy of the views that a client
moves (upload=delta) and the item rows that it tunes; they correct the scores by a term of rank A.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.data.cohorts import draw_negatives, expected_negatives, multi_hot
from fedvlr_jax.federated.groups import Teacher, teacher_of, with_teacher
from fedvlr_jax.federated.local import Broadcast, LocalInput, LocalResult, LocalUpdate, Task
from fedvlr_jax.federated.losses import Loss, make_loss, num_rows
from fedvlr_jax.federated.matmul_precision import make_product
from fedvlr_jax.federated.plans.dense_factors import (
    Factors,
    Moving,
    corrected_gradients,
    corrected_pooled,
    corrected_scores,
    no_factors,
    remember,
)
from fedvlr_jax.federated.plans.plan import Plan
from fedvlr_jax.federated.plans.routing import Routers, Routing, make_routing
from fedvlr_jax.federated.plans.steps import client_keys, local_result, once_a_client
from fedvlr_jax.types import Cohort, PyTree, Rates
from fedvlr_jax.uplink import LowRankUploads, Needs


def fits_dense(task: Task) -> bool:
    """Whether the plan can train these clients.

    A personal item table is of full rank. A history term is quadratic in the views, and the terms
    of a defence are not linear in them.
    """
    backbone = task.model.backbone
    linear = backbone.linear is not None and backbone.item_rows != "personal"
    return linear and not task.model.history_weight and not task.config.defense.active


class Method(NamedTuple):
    """The parts of the plan that are known before a round is traced.

    Attributes:
      product: an einsum in the precision of --matmul_precision.
    """

    task: Task
    routing: Routing
    loss: Loss
    product: Callable[[str, jax.Array, jax.Array], jax.Array]

    @property
    def delta(self) -> bool:
        """Whether a client moves its own copy of the broadcast."""
        return self.task.config.federation.upload == "delta"

    @property
    def tuned_rows(self) -> bool:
        """Whether a client tunes item rows of its own."""
        return self.task.model.backbone.item_rows == "tuned"


class Carry(NamedTuple):
    """The state from epoch to epoch.

    Attributes:
      shared: the sum of the gradients by the shared head [K, ...].
      loss: of the first epoch [K].
    """

    head: PyTree
    routers: Routers
    shared: PyTree
    factors: Factors
    loss: jax.Array


class Clients(NamedTuple):
    """A chunk of K clients: the inputs that no epoch changes.

    Attributes:
      views: [I, G * d]. pooled: the pooled histories over them [K, G * d].
      positive: multi-hot histories [K, I]; expected: the expected negatives [K, I].
      rows: rows of the loss [K, 1]. length: of the history, at least 1 [K, 1].
      keys: [K, A], one per client and epoch.
      head: the broadcast head, repeated for each client [K, ...].
      teacher: with --groups, the preferences of each client's group [K, I]; else None.
    """

    cohort: Cohort
    rates: Rates
    moving: Moving
    views: jax.Array
    positive: jax.Array
    rows: jax.Array
    length: jax.Array
    pooled: jax.Array
    keys: jax.Array
    expected: jax.Array
    head: PyTree
    teacher: Teacher | None


def make_dense_update(task: Task) -> LocalUpdate:
    """The dense plan, for a task that `fits_dense`."""
    config = task.config.federation
    routing = make_routing(task.model.fusion, pooled_stays=config.upload != "delta")
    product = make_product(config.matmul_precision)
    return functools.partial(_update, Method(task, routing, make_loss(task), product))


def _update(method: Method, broadcast: Broadcast, local: LocalInput, key: jax.Array) -> LocalResult:
    """A `LocalUpdate`; alpha is left to the uplink."""
    cohort, _, private = local
    epochs, rates = method.task.config.federation.local_epochs, broadcast.rates
    clients = _make_clients(method, broadcast, cohort, key)
    num_clients, pooled, views = len(clients.positive), clients.pooled, clients.views
    start = Carry(
        head=private["head"],
        routers=method.routing.start(private["router"], pooled),
        shared=jax.tree.map(jnp.zeros_like, clients.head),
        factors=no_factors(num_clients, epochs, views.shape, method.task.model.width, views.dtype),
        loss=jnp.zeros(num_clients, views.dtype),
    )
    step = functools.partial(_epoch_step, method, clients)
    end, _ = jax.lax.scan(step, start, jnp.arange(epochs))
    router, grad_pooled = method.routing.finish(
        private["router"], end.routers, pooled, rates.router_lr
    )
    factors = end.factors
    pull = jnp.sum(factors.pull, axis=0) + grad_pooled / clients.length

    trained = {"head": end.head, "router": router}
    if method.tuned_rows:
        moved = jnp.einsum("aki,akd->kid", factors.residual, factors.vector)
        trained["items"] = -rates.item_lr * moved
    uploads = LowRankUploads(
        residual=factors.residual,
        query=factors.query,
        positive=clients.positive,
        pull=pull,
        head=end.shared,
        scale=rates.delta_lr if method.delta else 1.0,
        views=broadcast.views.shape[1:],
        product=method.product,
    )
    return local_result(cohort, trained, uploads, end.loss)


def _make_clients(method: Method, broadcast: Broadcast, cohort: Cohort, key: jax.Array) -> Clients:
    task, config = method.task, method.task.config.federation
    histories, rates = cohort.histories, broadcast.rates
    num_clients, num_items = histories.item.shape[0], task.model.num_items
    views = broadcast.views.reshape(num_items, -1)
    positive = multi_hot(histories, num_items)
    rows = num_rows(histories.count, task.pool, config.num_negatives)[:, None]
    length = jnp.maximum(histories.count, 1)[:, None]
    rows, length = rows.astype(views.dtype), length.astype(views.dtype)
    pooled = method.product("ki,ig->kg", positive, views) / length
    return Clients(
        cohort=cohort,
        rates=rates,
        moving=Moving(
            rates.delta_lr if method.delta else None, rates.item_lr if method.tuned_rows else None
        ),
        views=views,
        positive=positive,
        rows=rows,
        length=length,
        pooled=pooled,
        keys=client_keys(key, histories.client, config.local_epochs),
        expected=expected_negatives(positive, histories.count, task.pool, config.num_negatives),
        head=once_a_client(broadcast.head, num_clients),
        teacher=teacher_of(broadcast.groups, histories.client),
    )


def _negatives(method: Method, clients: Clients, epoch: jax.Array) -> jax.Array:
    """[K, I]: how often each item is a negative of the epoch, or how often it is expected."""
    task, config = method.task, method.task.config.federation
    if config.negatives == "expected":
        return clients.expected
    histories = clients.cohort.histories
    drawn = jax.vmap(draw_negatives, in_axes=(0, 0, 0, None, None))(
        clients.keys[:, epoch], histories.item, histories.count, task.pool, config.num_negatives
    )
    row = jnp.arange(len(clients.positive))[:, None]
    return jnp.zeros_like(clients.positive).at[row, drawn].add(1.0, mode="drop")


def _query(
    method: Method, shared: PyTree, head: PyTree, router: PyTree, pooled: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One client: (q [G * d], the head's vector [d], bias [])."""
    linear = method.task.model.backbone.linear
    assert linear is not None
    vector, bias = linear(shared, head)
    weights = method.routing.weights(router, pooled)
    return (weights[:, None] * vector[None, :]).reshape(-1), vector, bias


def _epoch_step(
    method: Method, clients: Clients, carry: Carry, epoch: jax.Array
) -> tuple[Carry, None]:
    """One local epoch of all clients of the chunk."""
    cohort, rates, moving = clients.cohort, clients.rates, clients.moving
    head, routers, shared_sum, factors, first_loss = carry
    active = cohort.responded & (epoch < cohort.local_epochs)
    shared = clients.head
    if method.delta:
        shared = trees.axpy(-rates.delta_lr, shared_sum, shared)
    pooled = corrected_pooled(clients.pooled, factors, clients.positive, clients.length, moving)
    query_of = functools.partial(_query, method)
    (query, vector, bias), pull_back = jax.vjp(
        jax.vmap(query_of), shared, head, routers.params, pooled
    )
    scores = method.product("kg,ig->ki", query, clients.views) + bias[:, None]
    scores = corrected_scores(scores, factors, clients.positive, query, vector, moving)

    negative = _negatives(method, clients, epoch)
    loss = with_teacher(method.loss, clients.teacher)
    residual = loss.slope(scores, clients.positive, negative) / clients.rows
    residual = jnp.where(active[:, None], residual, 0.0)
    grad_query = method.product("ki,ig->kg", residual, clients.views)
    grad_query, grad_vector = corrected_gradients(
        grad_query, factors, clients.positive, residual, moving
    )
    grad_shared, grad_head, grad_router, grad_pooled = pull_back(
        (grad_query, grad_vector, jnp.sum(residual, axis=1))
    )

    grad_head = trees.axpy(rates.client_decay, head, grad_head)
    now = Factors(residual, query, grad_pooled / clients.length, vector)
    carry = Carry(
        head=trees.select(active, trees.axpy(-rates.client_lr, grad_head, head), head),
        routers=method.routing.step(routers, grad_router, active, rates.router_lr),
        shared=trees.axpy(1.0, grad_shared, shared_sum),
        factors=remember(factors, now, epoch),
        # The reported loss is that before the client's first step.
        loss=jax.lax.cond(
            epoch == 0,
            lambda: loss.value(scores, clients.positive, negative) / clients.rows[:, 0],
            lambda: first_loss,
        ),
    )
    return carry, None


def dense_client_bytes(task: Task, history_length: int) -> int:
    """`Plan.client_bytes`: a few arrays over the items, and the residual of each epoch."""
    return 4 * (task.config.federation.local_epochs + 6) * task.model.num_items


DENSE = Plan(fits_dense, Needs.WHOLE, make_dense_update, dense_client_bytes)
