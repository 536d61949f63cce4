"""Local epochs on every item of the catalogue, for almost any score; clients share the views.

With expected negatives every item is a row of every client, and with upload=gradient the
views stay as they were broadcast. So a client needs no copy of them: its item vectors are
one product w F over the views, and with C_a [I, d] the gradient of its loss by them in epoch
a, what the cohort uploads is

    sum_u alpha_u ( sum_a w_u,a (x) C_u,a  +  h_u (x) p_u ),

h the multi-hot history and p the gradient by the pooled history over its length: one product
an epoch, and never an array [K, I, G, d].

A score that begins with a linear map of the item's vector (`Backbone.embedding`) is given the
views as mapped, once for all clients and epochs; the gradient is pulled back through the map
once, as it is through the server's operators. A part of a score that is linear in the item's
vector needs no item vectors: it is one product of the clients' queries with the views.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.data.cohorts import expected_negatives, multi_hot
from fedvlr_jax.federated.local import (
    Broadcast,
    ClientNumbers,
    LocalResult,
    LocalUpdate,
    Task,
    likeness,
    make_loss,
    num_rows,
    views_stay,
)
from fedvlr_jax.federated.routing import make_routing
from fedvlr_jax.models.backbone import Embedding
from fedvlr_jax.types import Cohort, PyTree
from fedvlr_jax.uplink import Upload


def fits_catalogue(task: Task) -> bool:
    """Whether the plan can train these clients. It knows no penalty: that has a plan of its own,
    and with a history term beside it is left to the gathered one."""
    return views_stay(task) and task.model.backbone.penalty is None


def make_catalogue_update(task: Task) -> LocalUpdate:
    """The catalogue plan, for a task that `fits_catalogue`."""
    model, config = task.model, task.config.federation
    backbone, fusion, num_items = model.backbone, model.fusion, model.num_items
    # The history term needs the vectors themselves.
    unmapped = Embedding(lambda shared, vectors: vectors, backbone.score)
    embedding = unmapped if model.history_weight else backbone.embedding or unmapped
    routing = make_routing(fusion, pooled_stays=True)
    value = make_loss(task).value

    def route(router, pooled):
        """One client's weights [G], and the fused mean of its history [d]."""
        weights = routing.weights(router, pooled)
        return weights, weights @ pooled.reshape(len(weights), -1)

    def update(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> LocalResult:
        histories, rates = cohort.histories, broadcast.rates
        num_clients = alpha.shape[0]
        positive = multi_hot(histories, num_items)
        negative = expected_negatives(positive, histories.count, task.pool, config.num_negatives)
        kind = broadcast.views.dtype
        rows = num_rows(histories.count, task.pool, config.num_negatives).astype(kind)
        length = jnp.maximum(histories.count, 1).astype(kind)
        pooled = (positive @ broadcast.views.reshape(num_items, -1)) / length[:, None]

        def embed(head, views):
            """[I, G, d] -> leaves [G, I * e]."""
            flat = lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(leaf.shape[1], -1)
            return jax.tree.map(flat, embedding.apply(head, views))

        mapped, embed_back = jax.vjp(embed, broadcast.head, broadcast.views)

        def score(shared, trained, vectors, mean, positive, length):
            """One client's scores [I], given its item vectors [I, e] as mapped."""
            own = vectors + trained["items"] if "items" in trained else vectors
            scores = embedding.score(shared, trained["head"], own)
            if model.history_weight:
                scores += likeness(vectors, mean, positive, length, model.history_weight)
            return scores

        def losses(routers, pooled, trained, shared, mapped, views):
            """Each client's loss [K]."""
            weights, mean = jax.vmap(route)(routers, pooled)
            vectors = jax.tree.map(
                lambda leaf: (weights @ leaf).reshape(num_clients, num_items, -1), mapped
            )
            of_client = (trained, vectors, mean, positive, length)
            scores = jax.vmap(functools.partial(score, shared))(*of_client)
            if embedding.linear is not None:
                vector, bias = jax.vmap(embedding.linear, (None, 0))(shared, trained["head"])
                query = (weights[:, :, None] * vector[:, None]).reshape(num_clients, -1)
                scores += query @ views.reshape(num_items, -1).T + bias[:, None]
            return value(scores, positive, negative) / rows

        steps = {"head": rates.client_lr, "items": rates.item_lr}
        # Of a client that weighs nothing there is no gradient: it has no history.
        weigh_back = 1 / jnp.where(alpha != 0, alpha, 1)

        def epoch_step(carry, epoch):
            routers, trained, uploaded, pull, first_loss = carry
            active = cohort.responded & (epoch < cohort.local_epochs)
            loss, back = jax.vjp(
                losses, routers.params, pooled, trained, broadcast.head, mapped, broadcast.views
            )
            # Weighed already here, so that what is shared gets the sum over all clients.
            by_router, by_pooled, by_trained, *by_shared = back(jnp.where(active, alpha, 0.0))
            own = lambda leaf: trees.per_client(weigh_back, leaf) * leaf
            by_router, by_trained = jax.tree.map(own, (by_router, by_trained))
            by_trained["head"] = trees.axpy(rates.client_decay, trained["head"], by_trained["head"])
            moved = {
                name: trees.axpy(-steps[name], by_trained[name], trained[name]) for name in trained
            }
            carry = (
                routing.step(routers, by_router, active, rates.router_lr),
                trees.select(active, moved, trained),
                trees.axpy(1.0, by_shared, uploaded),
                pull + by_pooled,
                jnp.where(epoch == 0, loss, first_loss),
            )
            return carry, None

        trained = {name: private[name] for name in private if name != "router"}
        if backbone.item_rows == "tuned":
            trained["items"] = jnp.zeros_like(private["items"])
        shared = [broadcast.head, mapped, broadcast.views]
        carry = (
            routing.start(private["router"], pooled),
            trained,
            jax.tree.map(jnp.zeros_like, shared),
            jnp.zeros_like(pooled),
            jnp.zeros(num_clients, pooled.dtype),
        )
        (routers, trained, uploaded, pull, loss), _ = jax.lax.scan(
            epoch_step, carry, jnp.arange(config.local_epochs)
        )
        router, by_pooled = routing.finish(private["router"], routers, pooled, rates.router_lr)
        by_head, by_mapped, by_views = uploaded
        by_embedding, by_mapped_views = embed_back(by_mapped)
        pull = (pull + alpha[:, None] * by_pooled) / length[:, None]
        by_views += by_mapped_views + (positive.T @ pull).reshape(by_views.shape)
        trained = {**trained, "router": router}
        bad = trees.bad_leaf_of_rows(ClientNumbers(loss, **trained), num_clients)
        return LocalResult(
            private=trained,
            uploads=Upload(by_views, trees.axpy(1.0, by_embedding, by_head)),
            loss=jnp.where(cohort.responded, loss, 0.0),
            bad_leaf=bad,
        )

    return update
