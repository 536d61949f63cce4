"""Local epochs of a linear score beside a personal item table, kept as a few factors.

A client's loss has one weight for all items of its history and one for all its negatives, so rows
are of two kinds c. With F_g [I, d] the views, w the weights, C = sum_g w_g F_g the common rows, P
the personal ones, e [I] the gradient of the loss by the scores, and k_c, l_c the weights of the
penalty (models/backbone.py) in a row of kind c, the gradients of an epoch are

    by P_i:     e_i theta - k_c (P_i - C_i),
    by F_g,i:   w_g (e_i theta + k_c (P_i - C_i) + l_c sign(F_g,i)).

So in epoch a, with A_c = prod_{b<a} (1 + lr k_c) and r_b = e_b / A_c, A_c as it is after epoch b,

    P_i = A_c (P0_i - lr sum_{b<a} r_b,i theta_b + sum_g B_c,g F_g,i)

with one A and one B for each kind; rows outside the pool stay as they are. An epoch reads the table
in two products, P0 theta and its transpose. The table is written once, in place, after the round is
known to be finite (`write_back_factored`). The cohort's upload is a few numbers in the same bases
and the signs of the views; the penalty's gradient by a router follows from sums over the rows of a
kind.
`factored_rows.py` has these factors.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.data.cohorts import expected_negatives, multi_hot
from fedvlr_jax.federated.local import Broadcast, LocalInput, LocalResult, LocalUpdate, Task
from fedvlr_jax.federated.losses import Loss, make_loss, num_rows
from fedvlr_jax.federated.plans.factored_rows import (
    Factors,
    Past,
    Pull,
    Rows,
    bound_of_items,
    factored_view_cache,
    first_factors,
    make_rows,
    move,
    moved_items,
    no_past,
    penalties,
    remember,
    spread,
    trained_items,
    upload_of,
)
from fedvlr_jax.federated.plans.plan import Plan
from fedvlr_jax.federated.plans.routing import Routers, Routing, make_routing
from fedvlr_jax.federated.plans.steps import local_result, once_a_client, views_stay
from fedvlr_jax.models import Penalty
from fedvlr_jax.types import Cohort, PyTree, Rates
from fedvlr_jax.uplink import Needs, Upload


def fits_factored(task: Task) -> bool:
    """Whether the plan can train these clients.

    All rows of a history move in the same way only if its items have equal weights and there is no
    term of a defence.
    """
    backbone = task.model.backbone
    linear = backbone.linear is not None and not task.model.history_weight
    penalised = backbone.penalty is not None and not task.config.defense.active
    return linear and penalised and not task.weighted and views_stay(task)


class Method(NamedTuple):
    """The parts of the plan that are known before a round is traced."""

    task: Task
    routing: Routing
    loss: Loss


class Clients(NamedTuple):
    """A chunk of K clients: the inputs that no epoch changes.

    Attributes:
      penalty: of the round.
      alpha: weights of the clients in the sum [K].
      table: the personal rows before the round [K, I, d]; known: sums over them.
      head: the broadcast head, repeated for each client [K, ...].
      views: [I, G * d]. pooled: the pooled histories over them [K, G * d].
      positive: multi-hot histories [K, I]; negative: the expected negatives [K, I].
      rows: rows of the loss [K]. share: of a row of each kind in it, over d [2, K].
    """

    cohort: Cohort
    rates: Rates
    penalty: Penalty
    alpha: jax.Array
    table: jax.Array
    known: Rows
    head: PyTree
    views: jax.Array
    pooled: jax.Array
    positive: jax.Array
    negative: jax.Array
    rows: jax.Array
    share: jax.Array


class Gradients(NamedTuple):
    """The gradients of an epoch.

    Attributes:
      met: sum over the kind's rows of e_i <theta, F_g,i> [2, K, G].
      vector, weights: by the head's vector [K, d], and by the router's weights [2, K, G].
      pull: of the penalty.
    """

    met: jax.Array
    vector: jax.Array
    weights: jax.Array
    pull: Pull


class Scored(NamedTuple):
    """The scores of an epoch and the factors that made them.

    Attributes:
      vector: theta [K, d]. weights: w [K, G].
      mixed: [2, K, G]: a row of kind c is A_c times the row at the start, a few vectors, and
        sum_g mixed_c,g F_g. grown: A_c of each row [K, I].
      scores, residual: [K, I], and the gradient e of the loss by them.
    """

    vector: jax.Array
    weights: jax.Array
    mixed: jax.Array
    grown: jax.Array
    scores: jax.Array
    residual: jax.Array


class Carry(NamedTuple):
    """The state from epoch to epoch.

    Attributes:
      grad_shared: the sum over epochs and clients of the gradients by the shared head, by alpha.
      grad_pooled: the sum over epochs of the gradients by the pooled histories [K, G * d].
      loss: of the first epoch [K].
    """

    head: PyTree
    routers: Routers
    factors: Factors
    past: Past
    grad_shared: PyTree
    grad_pooled: jax.Array
    loss: jax.Array


def make_factored_update(task: Task) -> LocalUpdate:
    """The factored plan, for a task that `fits_factored`."""
    routing = make_routing(task.model.fusion, pooled_stays=True)
    return functools.partial(_update, Method(task, routing, make_loss(task)))


def _update(method: Method, broadcast: Broadcast, local: LocalInput, key: jax.Array) -> LocalResult:
    """A `LocalUpdate`; it draws nothing."""
    cohort, alpha, private = local
    epochs, member = method.task.config.federation.local_epochs, method.task.pool.member
    views, rates, routing = broadcast.views, broadcast.rates, method.routing
    clients, length = _make_clients(method, broadcast, cohort, alpha, private["items"])
    pooled, known = clients.pooled, clients.known
    start = Carry(
        head=private["head"],
        routers=routing.start(private["router"], pooled),
        factors=first_factors(known.inner),
        past=no_past(len(alpha), epochs, views.shape, views.dtype),
        grad_shared=jax.tree.map(jnp.zeros_like, broadcast.head),
        grad_pooled=jnp.zeros_like(pooled),
        loss=jnp.zeros(len(alpha), views.dtype),
    )
    step = functools.partial(_epoch_step, method, clients)
    end, _ = jax.lax.scan(step, start, jnp.arange(epochs))
    router, grad_pooled = routing.finish(private["router"], end.routers, pooled, rates.router_lr)
    pull = (alpha[:, None] / length) * (end.grad_pooled + grad_pooled)
    grad_views = upload_of(
        views, member, clients.table, known, end.factors, end.past, rates.item_lr
    )
    grad_views += (clients.positive.T @ pull).reshape(views.shape)
    moved = moved_items(known.kinds, end.factors, end.past)
    trained = {"head": end.head, "router": router}
    bound = bound_of_items(broadcast.view_cache, moved, rates.item_lr)
    return local_result(
        cohort,
        {**trained, "items": bound},
        Upload(grad_views, end.grad_shared),
        end.loss,
        private={**trained, "items": moved},
    )


def _make_clients(
    method: Method, broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, table: jax.Array
) -> tuple[Clients, jax.Array]:
    """(the chunk, the length of the histories, at least 1 [K, 1])."""
    task, histories, views = method.task, cohort.histories, broadcast.views
    num_items, num_negatives = task.model.num_items, task.config.federation.num_negatives
    assert task.model.backbone.penalty is not None
    positive = multi_hot(histories, num_items)
    negative = expected_negatives(positive, histories.count, task.pool, num_negatives)
    rows = num_rows(histories.count, task.pool, num_negatives).astype(views.dtype)
    share = jnp.stack([jnp.ones_like(alpha), jnp.max(negative, axis=1)])
    share = share / (rows * task.model.width)[None]
    length = jnp.maximum(histories.count, 1)[:, None].astype(views.dtype)
    flat_views = views.reshape(num_items, -1)
    clients = Clients(
        cohort=cohort,
        rates=broadcast.rates,
        penalty=task.model.backbone.penalty(broadcast.round),
        alpha=alpha,
        table=table,
        known=make_rows(broadcast.view_cache, table, positive, negative),
        head=once_a_client(broadcast.head, len(alpha)),
        views=flat_views,
        pooled=(positive @ flat_views) / length,
        positive=positive,
        negative=negative,
        rows=rows,
        share=share,
    )
    return clients, length


def _query(
    method: Method, shared: PyTree, head: PyTree, router: PyTree, pooled: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One client: (the head's vector [d], its bias [], weights [G])."""
    linear = method.task.model.backbone.linear
    assert linear is not None
    return (*linear(shared, head), method.routing.weights(router, pooled))


def _score(
    method: Method,
    clients: Clients,
    carry: Carry,
    query: tuple[jax.Array, jax.Array, jax.Array],
    active: jax.Array,
) -> Scored:
    """The scores of all items in an epoch, without the personal rows themselves.

    Args:
      query: of `_query`, for all clients. active: bool [K].
    """
    factors, past, known = carry.factors, carry.past, clients.known
    vector, bias, weights = query
    mixed = weights[None] + factors.table[..., None] * factors.views
    queries = mixed[..., None] * vector[None, :, None]
    view_scores = queries.reshape(2 * len(vector), -1) @ clients.views.T
    view_scores = spread(known.kinds, view_scores.reshape(known.kinds.shape), 0.0)
    grown = spread(known.kinds, factors.table, 1.0)
    along = jnp.einsum("kad,kd->ka", past.vector, vector)
    scores = jnp.einsum("kid,kd->ki", clients.table, vector)
    scores -= clients.rates.item_lr * jnp.einsum("kai,ka->ki", past.residual, along)
    scores = grown * scores + view_scores + bias[:, None]
    residual = method.loss.slope(scores, clients.positive, clients.negative)
    residual = jnp.where(active[:, None], residual / clients.rows[:, None], 0.0)
    return Scored(vector, weights, mixed, grown, scores, residual)


def _gradients(
    clients: Clients, carry: Carry, scored: Scored, repulsion: jax.Array, l1: jax.Array
) -> Gradients:
    """The gradients of an epoch; `repulsion` and `l1` as in `Pull`."""
    known, past, rate = clients.known, carry.past, clients.rates.item_lr
    vector, weights, mixed, grown, _, residual = scored
    # sum over the kind's rows of e_i F_g,i [2, K, G, d].
    num_items, width = residual.shape[1], vector.shape[1]
    residual_views = (known.kinds * residual[None]).reshape(-1, num_items) @ clients.views
    residual_views = residual_views.reshape(*mixed.shape, width)
    met = jnp.einsum("ckgd,kd->ckg", residual_views, vector)
    grown = grown * residual
    grad_vector = jnp.einsum("kid,ki->kd", clients.table, grown)
    grad_vector += jnp.einsum("ckg,ckgd->kd", mixed, residual_views)
    overlap = jnp.einsum("kai,ki->ka", past.residual, grown)
    grad_vector -= rate * jnp.einsum("ka,kad->kd", overlap, past.vector)
    common = jnp.einsum("kh,ckhg->ckg", weights, known.views_inner)
    grad_weights = met + repulsion * (carry.factors.inner - common) + l1 * known.size
    return Gradients(met, grad_vector, grad_weights, Pull(repulsion, l1, common))


def _loss(method: Method, clients: Clients, carry: Carry, scored: Scored, pull: Pull) -> jax.Array:
    """[K]: each client's loss with its rows before the round."""
    entropy = method.loss.value(scored.scores, clients.positive, clients.negative)
    inner = carry.factors.inner
    penalty = penalties(clients.known, clients.table, inner, scored.weights, pull)
    return entropy / clients.rows + jnp.sum(penalty, axis=0)


def _epoch_step(
    method: Method, clients: Clients, carry: Carry, epoch: jax.Array
) -> tuple[Carry, None]:
    """One local epoch of all clients of the chunk."""
    cohort, rates, alpha = clients.cohort, clients.rates, clients.alpha
    active = cohort.responded & (epoch < cohort.local_epochs)
    share = lambda weight: jnp.where(active, weight * clients.share, 0.0)[..., None]
    repulsion, l1 = share(2 * clients.penalty.repulsion), share(clients.penalty.l1)

    query, pull_back = jax.vjp(
        jax.vmap(functools.partial(_query, method)),
        clients.head,
        carry.head,
        carry.routers.params,
        clients.pooled,
    )
    scored = _score(method, clients, carry, query, active)
    residual, weights = scored.residual, scored.weights
    met, grad_vector, grad_weights, pull = _gradients(clients, carry, scored, repulsion, l1)
    grad_shared, grad_head, grad_router, grad_pooled = pull_back(
        (grad_vector, jnp.sum(residual, axis=1), jnp.sum(grad_weights, axis=0))
    )

    counted = jnp.where(active, alpha, 0.0)
    uploaded = counted[:, None] * weights
    after = move(carry.factors, met, weights, uploaded, pull, rates.item_lr)
    now = Past(
        residual=residual / spread(clients.known.kinds, after.table, 1.0),
        vector=scored.vector,
        uploaded=uploaded,
        table=after.table,
        table_count=after.table_count,
    )
    grad_head = trees.axpy(rates.client_decay, carry.head, grad_head)
    moved_head = trees.axpy(-rates.client_lr, grad_head, carry.head)
    grad_shared = trees.weighted_sum(counted, grad_shared)
    loss_of = functools.partial(_loss, method, clients, carry, scored, pull)
    first_loss = carry.loss
    carry = Carry(
        head=trees.select(active, moved_head, carry.head),
        routers=method.routing.step(carry.routers, grad_router, active, rates.router_lr),
        factors=after,
        past=remember(carry.past, now, epoch),
        grad_shared=trees.axpy(1.0, grad_shared, carry.grad_shared),
        grad_pooled=carry.grad_pooled + jnp.where(active[:, None], grad_pooled, 0.0),
        loss=jax.lax.cond(
            epoch == 0,
            loss_of,
            lambda: first_loss,
        ),
    )
    return carry, None


def write_back_factored(broadcast: Broadcast, moved: PyTree, private: PyTree) -> PyTree:
    """The private rows after a round, from the factors of the update and the rows before it."""
    table, rate = private["items"], broadcast.rates.item_lr
    return {**moved, "items": trained_items(broadcast.views, table, moved["items"], rate)}


def factored_client_bytes(task: Task, history_length: int) -> int:
    """`Plan.client_bytes`: the table with and without the negatives' rows, and the factors of each
    item by epoch and view."""
    num_views = len(task.model.fusion.names)
    coefficients = (task.config.federation.local_epochs + 4) * (num_views + 1)
    return 4 * task.model.num_items * (2 * task.model.width + coefficients)


FACTORED = Plan(
    fits_factored,
    Needs.SUM,
    make_factored_update,
    factored_client_bytes,
    write_back_factored,
    factored_view_cache,
    cache_bytes=1 << 26,
)
