"""Local epochs of a linear backbone as dense linear algebra over the whole catalogue.

With a linear head a score is <F_i, q> + b, q = w (x) theta [G * d]. Let r_a [I] be the
gradient of a client's loss by its scores in epoch a, q_a its query and p_a the gradient
by its pooled history, divided by the length of that history. Then the gradient by the
views, over the A epochs, has rank A + 1:

    sum_a r_a (x) q_a  +  h (x) sum_a p_a,        h the multi-hot history,

so that a client's upload is never built: its norm is a trace of two Gram matrices, and
the cohort's weighted sum is one matrix product. For the same reason a copy of the views
that the client moves (upload=delta), or item rows that it tunes, are known by these
factors, and enter the scores as a correction of rank A.
"""

from __future__ import annotations

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
    Upload,
    client_keys,
    make_loss,
    num_rows,
)
from fedvlr_jax.federated.precision import make_product
from fedvlr_jax.federated.privacy import clip_factors
from fedvlr_jax.federated.routing import make_routing
from fedvlr_jax.types import Cohort, PyTree


def fits_dense(task: Task) -> bool:
    """Whether the plan can train these clients.

    A personal item table is of full rank, and a history term is quadratic in the views.
    """
    backbone = task.model.backbone
    linear = backbone.linear is not None and backbone.item_rows != "personal"
    return linear and not task.model.history_weight


def make_dense_update(task: Task) -> LocalUpdate:
    """The dense plan, for a task that `fits_dense`."""
    model, config = task.model, task.config.federation
    backbone, fusion = model.backbone, model.fusion
    epochs = config.local_epochs
    product = make_product(config.matmul_precision)
    delta, tuned_rows = config.upload == "delta", backbone.item_rows == "tuned"
    routing = make_routing(fusion, pooled_stays=not delta)
    loss_of = make_loss(task)
    assert backbone.linear is not None
    linear = backbone.linear

    def query(shared, head, router, pooled):
        """One client: (q [G * d], the head's vector [d], bias [])."""
        vector, bias = linear(shared, head)
        weights = routing.weights(router, pooled)
        return (weights[:, None] * vector).reshape(-1), vector, bias

    def update(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> LocalResult:
        histories, rates = cohort.histories, broadcast.rates
        num_clients = histories.item.shape[0]
        views = broadcast.views.reshape(model.num_items, -1)
        positive = multi_hot(histories, model.num_items)
        rows = num_rows(histories.count, task.pool, config.num_negatives)[:, None]
        length = jnp.maximum(histories.count, 1)[:, None]
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

        def epoch_step(carry, epoch):
            head, routers, shared_sum, factors, loss = carry
            residuals, queries, pulls, vectors = factors
            active = cohort.present & (epoch < cohort.local_epochs)

            pooled = broadcast_pooled
            if delta:
                inside = jnp.einsum("aki,ki->ak", residuals, positive) / length[:, 0]
                pooled -= rates.copy_lr * (
                    jnp.einsum("ak,akg->kg", inside, queries) + jnp.sum(pulls, axis=0)
                )
            shared = trees.axpy(-rates.copy_lr, shared_sum, shared0) if delta else shared0
            (q, vector, bias), pull_back = jax.vjp(
                jax.vmap(query), shared, head, routers.params, pooled
            )
            scores = product("kg,ig->ki", q, views) + bias[:, None]
            if delta:
                scores -= rates.copy_lr * jnp.einsum(
                    "aki,ak->ki", residuals, jnp.einsum("akg,kg->ak", queries, q)
                )
                scores -= rates.copy_lr * positive * jnp.einsum("akg,kg->k", pulls, q)[:, None]
            if tuned_rows:
                scores -= rates.item_lr * jnp.einsum(
                    "aki,ak->ki", residuals, jnp.einsum("akd,kd->ak", vectors, vector)
                )

            negative = negatives(epoch)
            residual = loss_of.slope(scores, positive, negative) / rows
            residual = jnp.where(active[:, None], residual, 0.0)
            q_gradient = product("ki,ig->kg", residual, views)
            vector_gradient = jnp.zeros_like(vector)
            overlap = jnp.einsum("ki,aki->ak", residual, residuals) if delta or tuned_rows else None
            if delta:
                q_gradient -= rates.copy_lr * (
                    jnp.einsum("ak,akg->kg", overlap, queries)
                    + jnp.einsum("ki,ki->k", residual, positive)[:, None] * jnp.sum(pulls, axis=0)
                )
            if tuned_rows:
                vector_gradient -= rates.item_lr * jnp.einsum("ak,akd->kd", overlap, vectors)
            by_shared, by_head, by_router, by_pooled = pull_back(
                (q_gradient, vector_gradient, jnp.sum(residual, axis=1))
            )

            # The loss is reported where the client stood when the round began.
            loss = jax.lax.cond(
                epoch == 0,
                lambda: loss_of.value(scores, positive, negative) / rows[:, 0],
                lambda: loss,
            )
            by_head = trees.axpy(rates.client_decay, head, by_head)
            head = trees.select(active, trees.axpy(-rates.client_lr, by_head, head), head)
            routers = routing.step(routers, by_router, active, rates.router_lr)
            shared_sum = trees.axpy(1.0, by_shared, shared_sum)
            factors = (
                residuals.at[epoch].set(residual),
                queries.at[epoch].set(q),
                pulls.at[epoch].set(by_pooled / length),
                vectors.at[epoch].set(vector),
            )
            return (head, routers, shared_sum, factors, loss), None

        factors = (
            jnp.zeros((epochs, *positive.shape), positive.dtype),
            jnp.zeros((epochs, num_clients, views.shape[1]), views.dtype),
            jnp.zeros((epochs, num_clients, views.shape[1]), views.dtype),
            jnp.zeros((epochs, num_clients, model.width), views.dtype),
        )
        carry = (
            private["head"],
            routing.start(private["router"], broadcast_pooled),
            jax.tree.map(jnp.zeros_like, shared0),
            factors,
            jnp.zeros(num_clients, views.dtype),
        )
        (head, routers, shared_sum, factors, loss), _ = jax.lax.scan(
            epoch_step, carry, jnp.arange(epochs)
        )
        residuals, queries, pulls, vectors = factors
        router, by_pooled = routing.finish(
            private["router"], routers, broadcast_pooled, rates.router_lr
        )
        pull = jnp.sum(pulls, axis=0) + by_pooled / length

        scale = rates.copy_lr if delta else 1.0
        if task.config.privacy.clip_norm:
            left = jnp.concatenate([residuals, positive[None]])
            right = jnp.concatenate([queries, pull[None]])
            gram = jnp.einsum("aki,bki->kab", left, left) * jnp.einsum("akg,bkg->kab", right, right)
            square = jnp.sum(gram, axis=(1, 2)) + trees.squared_norms(shared_sum, num_clients)
            factor = clip_factors(
                scale * jnp.sqrt(jnp.maximum(square, 0.0)), task.config.privacy.clip_norm
            )
        else:
            factor = jnp.ones(num_clients)
        by_client = scale * factor * alpha
        by_views = product("aki,akg->ig", residuals, by_client[None, :, None] * queries)
        by_views += product("ki,kg->ig", positive, by_client[:, None] * pull)
        upload = Upload(
            views=by_views.reshape(broadcast.views.shape),
            head=trees.weighted_sum(by_client, shared_sum),
        )
        trained = {"head": head, "router": router}
        if tuned_rows:
            trained["items"] = -rates.item_lr * jnp.einsum("aki,akd->kid", residuals, vectors)
        bad = trees.bad_leaf_of_rows(ClientNumbers(loss, **trained), num_clients)
        return LocalResult(trained, upload, jnp.where(cohort.present, loss, 0.0), factor < 1, bad)

    return update
