"""Local epochs on every item of the catalogue, for almost any score; clients share the views.

With expected negatives every item is a row of every client, and with upload=gradient the
views do not change during a round. So a client needs no copy of them: its item vectors are
one product w F over the views. With C_a [I, d] the gradient of its loss by these vectors in
epoch a, the cohort's upload is

    sum_u alpha_u ( sum_a w_u,a (x) C_u,a  +  h_u (x) p_u ),

h the multi-hot history and p the gradient by the pooled history over its length. It needs one
product per epoch, and no array [K, I, G, d].

Some scores begin with a linear map of the item's vector (`Backbone.embedding`). The plan maps the
views once for all clients and epochs, and pulls the gradient back through the map once, as the
server does through its operators. A part of a score that is linear in the item's vector needs no
item vectors: it is one product of the clients' queries with the views.
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
from fedvlr_jax.federated.model import likeness
from fedvlr_jax.federated.plans.plan import Plan
from fedvlr_jax.federated.plans.routing import Routers, Routing, make_routing
from fedvlr_jax.federated.plans.steps import local_result, sgd_step, views_stay
from fedvlr_jax.federated.popular import Popular, popular_term
from fedvlr_jax.models.backbone import Embedding
from fedvlr_jax.types import Cohort, PyTree, Rates
from fedvlr_jax.uplink import Needs, Upload


def fits_catalogue(task: Task) -> bool:
    """Whether the plan can train these clients. It does not support a penalty: the factored plan
    does, and the gathered plan also together with a history term."""
    return views_stay(task) and task.model.backbone.penalty is None


class Method(NamedTuple):
    """The parts of the plan that are known before a round is traced."""

    task: Task
    routing: Routing
    embedding: Embedding
    loss: Loss


class Clients(NamedTuple):
    """A chunk of K clients: the inputs that no epoch changes.

    Attributes:
      alpha: weights of the clients in the sum [K]. unweighted: 1 / alpha, or 1 where alpha is 0:
        such a client has no history, so its gradient is 0.
      positive: multi-hot histories [K, I]. negative: the expected negatives [K, I].
      rows: rows of the loss [K]. length: of the history, at least 1 [K].
      pooled: the pooled histories over the views [K, G * d].
      popular: of the broadcast, or None.
    """

    cohort: Cohort
    rates: Rates
    alpha: jax.Array
    unweighted: jax.Array
    positive: jax.Array
    negative: jax.Array
    rows: jax.Array
    length: jax.Array
    pooled: jax.Array
    popular: Popular | None


class Shared(NamedTuple):
    """The arrays that all clients read, or their gradients.

    Attributes:
      head: the shared head. mapped: the views as the embedding maps them, leaves [G, I * e].
      views: [I, G, d].
    """

    head: PyTree
    mapped: PyTree
    views: jax.Array


class Carry(NamedTuple):
    """The state from epoch to epoch.

    Attributes:
      trained: {"head" and, where a client has them, "items"}, leaves [K, ...].
      upload: the gradients by the shared arrays, summed over the clients by alpha.
      pull: the sum of the gradients by the pooled histories, times alpha [K, G * d].
      loss: of the first epoch [K].
    """

    routers: Routers
    trained: PyTree
    upload: Shared
    pull: jax.Array
    loss: jax.Array


def make_catalogue_update(task: Task) -> LocalUpdate:
    """The catalogue plan, for a task that `fits_catalogue`."""
    model = task.model
    # The history term and the defence need the vectors themselves.
    unmapped = Embedding(lambda shared, vectors: vectors, model.backbone.score)
    needs_vectors = model.history_weight or task.config.defense.active
    embedding = unmapped if needs_vectors else model.backbone.embedding or unmapped
    routing = make_routing(model.fusion, pooled_stays=True)
    return functools.partial(_update, Method(task, routing, embedding, make_loss(task)))


def _update(method: Method, broadcast: Broadcast, local: LocalInput, key: jax.Array) -> LocalResult:
    """A `LocalUpdate`; it draws nothing."""
    cohort, alpha, private = local
    clients = _make_clients(method, broadcast, cohort, alpha)
    pooled, rates = clients.pooled, clients.rates
    embed = functools.partial(_embed, method)
    mapped, embed_back = jax.vjp(embed, broadcast.head, broadcast.views)
    shared = Shared(broadcast.head, mapped, broadcast.views)
    trained = {name: private[name] for name in private if name != "router"}
    if method.task.model.backbone.item_rows == "tuned":
        trained["items"] = jnp.zeros_like(private["items"])
    start = Carry(
        routers=method.routing.start(private["router"], pooled),
        trained=trained,
        upload=jax.tree.map(jnp.zeros_like, shared),
        pull=jnp.zeros_like(pooled),
        loss=jnp.zeros(len(alpha), pooled.dtype),
    )
    step = functools.partial(_epoch_step, method, clients, shared)
    epochs = jnp.arange(method.task.config.federation.local_epochs)
    (routers, trained, upload, pull, loss), _ = jax.lax.scan(step, start, epochs)

    router, grad_pooled = method.routing.finish(private["router"], routers, pooled, rates.router_lr)
    grad_head, grad_mapped_views = embed_back(upload.mapped)
    pull = (pull + alpha[:, None] * grad_pooled) / clients.length[:, None]
    from_pooled = (clients.positive.T @ pull).reshape(upload.views.shape)
    grad_views = upload.views + (grad_mapped_views + from_pooled)
    uploads = Upload(grad_views, trees.axpy(1.0, grad_head, upload.head))
    return local_result(cohort, {**trained, "router": router}, uploads, loss)


def _make_clients(
    method: Method, broadcast: Broadcast, cohort: Cohort, alpha: jax.Array
) -> Clients:
    task, histories = method.task, cohort.histories
    num_items, num_negatives = task.model.num_items, task.config.federation.num_negatives
    kind = broadcast.views.dtype
    positive = multi_hot(histories, num_items)
    length = jnp.maximum(histories.count, 1).astype(kind)
    return Clients(
        cohort=cohort,
        rates=broadcast.rates,
        alpha=alpha,
        unweighted=1 / jnp.where(alpha != 0, alpha, 1),
        positive=positive,
        negative=expected_negatives(positive, histories.count, task.pool, num_negatives),
        rows=num_rows(histories.count, task.pool, num_negatives).astype(kind),
        length=length,
        pooled=(positive @ broadcast.views.reshape(num_items, -1)) / length[:, None],
        popular=broadcast.popular,
    )


def _embed(method: Method, head: PyTree, views: jax.Array) -> PyTree:
    """The views [I, G, d] as the embedding maps them, leaves [G, I * e]."""
    flat = lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(leaf.shape[1], -1)
    return jax.tree.map(flat, method.embedding.apply(head, views))


def _route(method: Method, router: PyTree, pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One client's weights [G], and the fused mean of its history [d]."""
    weights = method.routing.weights(router, pooled)
    return weights, weights @ pooled.reshape(len(weights), -1)


def _score(
    method: Method,
    head: PyTree,
    trained: PyTree,
    vectors: jax.Array,
    mean: jax.Array,
    positive: jax.Array,
    length: jax.Array,
) -> jax.Array:
    """One client's scores [I], given its item vectors [I, e] as mapped."""
    history_weight = method.task.model.history_weight
    own = vectors + trained["items"] if "items" in trained else vectors
    scores = method.embedding.score(head, trained["head"], own)
    if history_weight:
        scores += likeness(vectors, mean, positive, length, history_weight)
    return scores


def _losses(
    method: Method,
    clients: Clients,
    routers: PyTree,
    pooled: jax.Array,
    trained: PyTree,
    head: PyTree,
    mapped: PyTree,
    views: jax.Array,
) -> jax.Array:
    """Each client's loss [K]."""
    positive, num_items = clients.positive, method.task.model.num_items
    num_clients = len(positive)
    weights, mean = jax.vmap(functools.partial(_route, method))(routers, pooled)
    vectors = jax.tree.map(
        lambda leaf: (weights @ leaf).reshape(num_clients, num_items, -1), mapped
    )
    score = functools.partial(_score, method, head)
    scores = jax.vmap(score)(trained, vectors, mean, positive, clients.length)
    if method.embedding.linear is not None:
        vector, bias = jax.vmap(method.embedding.linear, (None, 0))(head, trained["head"])
        query = (weights[:, :, None] * vector[:, None]).reshape(num_clients, -1)
        scores += query @ views.reshape(num_items, -1).T + bias[:, None]
    losses = method.loss.value(scores, positive, clients.negative) / clients.rows
    if clients.popular is not None:
        term = lambda weights, vectors, counts, own: popular_term(
            method.task, clients.popular, weights, vectors, jnp.arange(num_items), counts, own
        )
        counts, heads = positive + clients.negative, (head, trained["head"])
        losses += jax.vmap(term, (0, 0, 0, (None, 0)))(weights, vectors, counts, heads)
    return losses


def _epoch_step(
    method: Method, clients: Clients, shared: Shared, carry: Carry, epoch: jax.Array
) -> tuple[Carry, None]:
    """One local epoch of all clients of the chunk."""
    cohort, rates, alpha = clients.cohort, clients.rates, clients.alpha
    routers, trained, upload, pull, first_loss = carry
    active = cohort.responded & (epoch < cohort.local_epochs)
    losses = functools.partial(_losses, method, clients)
    loss, back = jax.vjp(losses, routers.params, clients.pooled, trained, *shared)
    # The losses are weighted by alpha here, so the gradients by the shared arrays are the sums.
    grad_router, grad_pooled, grad_trained, *grad_shared = back(jnp.where(active, alpha, 0.0))
    own = lambda leaf: trees.per_client(clients.unweighted, leaf) * leaf
    grad_router, grad_trained = jax.tree.map(own, (grad_router, grad_trained))
    moved = sgd_step(rates, trained, grad_trained)
    carry = Carry(
        routers=method.routing.step(routers, grad_router, active, rates.router_lr),
        trained=trees.select(active, moved, trained),
        upload=trees.axpy(1.0, Shared(*grad_shared), upload),
        pull=pull + grad_pooled,
        loss=jnp.where(epoch == 0, loss, first_loss),
    )
    return carry, None


def catalogue_client_bytes(task: Task, history_length: int) -> int:
    """`Plan.client_bytes`: the item vectors, the mapped ones, and their gradient."""
    return 4 * 6 * task.model.num_items * task.model.width


CATALOGUE = Plan(
    fits_catalogue,
    Needs.SUM,
    make_catalogue_update,
    catalogue_client_bytes,
    cache_bytes=1 << 25,
)
