"""Local epochs of a linear score beside a personal item table, which few factors carry.

A client's loss weighs all items of its history alike, and all its negatives alike: two kinds c
of rows. With F_g [I, d] the views, w the weights, C = sum_g w_g F_g the common rows, P the
personal ones, e [I] the gradient of the loss by the scores, and k_c, l_c what the penalty
(models/backbone.py) weighs in a row of kind c, the gradients of an epoch are

    by P_i:     e_i theta - k_c (P_i - C_i),
    by F_g,i:   w_g (e_i theta + k_c (P_i - C_i) + l_c sign(F_g,i)).

So in epoch a, with A_c = prod_{b<a} (1 + lr k_c) and r_b = e_b / A_c, A_c as it is after epoch b,

    P_i = A_c (P0_i - lr sum_{b<a} r_b,i theta_b + sum_g B_c,g F_g,i)

with numbers A and B a kind; rows outside the pool stay as they are. The table is met in two
products an epoch, P0 theta and its transpose, and is written once a round. What the cohort
uploads is known by few numbers in the same bases and the signs of the views, and what the
penalty pulls a router by, from sums over the rows of a kind.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    Upload,
    make_loss,
    num_rows,
    views_stay,
)
from fedvlr_jax.federated.routing import Routers, make_routing
from fedvlr_jax.types import Cohort, PyTree


class Factors(NamedTuple):
    """The personal rows of an epoch, and their part of the upload so far; a kind each.

    Attributes:
      table, views: A [2, K] and B [2, K, G] of the module's docstring.
      inner: sum over the kind's rows of <P_i, F_g,i> [2, K, G].
      by_table, by_views, by_sign: how often the upload to view g holds the client's P0
        [2, K, G], view h [2, K, G, G] and the signs of view g [2, K, G].
    """

    table: jax.Array
    views: jax.Array
    inner: jax.Array
    by_table: jax.Array
    by_views: jax.Array
    by_sign: jax.Array


class Past(NamedTuple):
    """By epoch, E of them: r [E, K, I], theta [E, K, d], alpha w [E, K, G], and `Factors.table`
    [E, 2, K] and `Factors.by_table` [E, 2, K, G] as they are after it."""

    residual: jax.Array
    vector: jax.Array
    uploaded: jax.Array
    table: jax.Array
    by_table: jax.Array


class Carry(NamedTuple):
    """From epoch to epoch; the sums of gradients are by the shared head and by the pooled
    histories, `loss` is that of the first epoch."""

    head: PyTree
    routers: Routers
    factors: Factors
    past: Past
    by_shared: PyTree
    by_pooled: jax.Array
    loss: jax.Array


def fits_factored(task: Task) -> bool:
    """Whether the plan can train these clients."""
    backbone, history_weight = task.model.backbone, task.model.history_weight
    linear = backbone.linear is not None and not history_weight
    return linear and backbone.penalty is not None and views_stay(task)


def make_factored_update(task: Task) -> LocalUpdate:
    """The factored plan, for a task that `fits_factored`."""
    model, config = task.model, task.config.federation
    backbone, num_items, width = model.backbone, model.num_items, model.width
    epochs, num_views = config.local_epochs, len(model.fusion.names)
    routing = make_routing(model.fusion, pooled_stays=True)
    assert backbone.linear is not None and backbone.penalty is not None
    linear, penalty_of = backbone.linear, backbone.penalty
    loss_of = make_loss(task)

    def query(shared, head, router, pooled):
        """One client: (the head's vector [d], its bias [], weights [G])."""
        return (*linear(shared, head), routing.weights(router, pooled))

    def update(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> LocalResult:
        histories, rates = cohort.histories, broadcast.rates
        num_clients, table, rate = alpha.shape[0], private["items"], rates.item_lr
        positive = multi_hot(histories, num_items)
        negative = expected_negatives(positive, histories.count, task.pool, config.num_negatives)
        rows = num_rows(histories.count, task.pool, config.num_negatives)
        length = jnp.maximum(histories.count, 1)[:, None]
        pooled = (positive @ broadcast.views.reshape(num_items, -1)) / length
        shared = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_clients, *leaf.shape)), broadcast.head
        )
        penalty = penalty_of(broadcast.round)

        views = jnp.swapaxes(broadcast.views, 0, 1)
        by_item, by_entry = views.reshape(-1, width), views.reshape(num_views, -1)
        kinds = jnp.stack([positive, (negative > 0).astype(views.dtype)])
        share = jnp.stack([jnp.ones_like(alpha), jnp.max(negative, axis=1)]) / (rows * width)
        products = jnp.stack([jnp.stack([jnp.sum(f * h, axis=-1) for h in views]) for f in views])
        # Sums over the rows of a kind: of <F_h,i, F_g,i> [2, K, G, G] and of |F_g,i| [2, K, G].
        views_inner = jnp.tensordot(kinds, products, axes=((2,), (2,)))
        size = jnp.tensordot(kinds, jnp.sum(jnp.abs(views), axis=-1), axes=((2,), (1,)))
        table_of = (kinds[..., None] * table).reshape(2, num_clients, -1)

        def spread(numbers: jax.Array, outside: Any) -> jax.Array:
            """[2, K, ...] a kind as [K, ..., I], `outside` where a row is of neither kind."""
            here = lambda kind: kind.reshape(num_clients, *(1,) * (numbers.ndim - 2), num_items)
            negatives = jnp.where(here(kinds[1]) > 0, numbers[1][..., None], outside)
            return jnp.where(here(kinds[0]) > 0, numbers[0][..., None], negatives)

        def epoch_step(carry: Carry, epoch):
            head, routers, factors, past, by_shared_sum, pull, first_loss = carry
            active = cohort.present & (epoch < cohort.local_epochs)
            weigh = lambda of: jnp.where(active, of * share, 0.0)[..., None]
            apart, sparse = weigh(2 * penalty.apart), weigh(penalty.sparse)

            (vector, bias, weights), pull_back = jax.vjp(
                jax.vmap(query), shared, head, routers.params, pooled
            )
            by_view = (vector @ by_item.T).reshape(num_clients, num_views, -1)
            grown = spread(factors.table, 1.0)
            mixed = weights + factors.table[..., None] * factors.views
            mixed = spread(mixed, weights[..., None])
            along = jnp.einsum("akd,kd->ak", past.vector, vector)
            scores = jnp.einsum("kid,kd->ki", table, vector)
            scores -= rate * jnp.sum(past.residual * along[..., None], axis=0)
            scores = grown * scores + jnp.sum(mixed * by_view, axis=1) + bias[:, None]
            residual = loss_of.slope(scores, positive, negative)
            residual = jnp.where(active[:, None], residual / rows[:, None], 0.0)

            grown *= residual
            by_vector = jnp.einsum("kid,ki->kd", table, grown)
            by_vector += (mixed * residual[:, None]).reshape(num_clients, -1) @ by_item
            overlap = jnp.sum(past.residual * grown, axis=2)
            by_vector -= rate * jnp.einsum("ak,akd->kd", overlap, past.vector)
            met = residual[:, None] * by_view
            met_own = jnp.sum(positive[:, None] * met, axis=2)
            met = jnp.stack([met_own, jnp.sum(met, axis=2) - met_own])
            # As `Factors.inner`, of the common rows.
            common = jnp.einsum("kh,ckhg->ckg", weights, views_inner)
            by_weights = jnp.sum(met + apart * (factors.inner - common) + sparse * size, axis=0)
            by_shared, by_head, by_router, by_pooled = pull_back(
                (by_vector, jnp.sum(residual, axis=1), by_weights)
            )

            def loss():
                """Where the client stood when the round began."""
                distance = jnp.einsum("cki,ki->ck", kinds, jnp.sum(jnp.square(table), axis=-1))
                distance += jnp.sum(weights * (common - 2 * factors.inner), axis=2)
                of_kind = jnp.sum(sparse * weights * size, axis=2) - apart[..., 0] / 2 * distance
                entropy = loss_of.value(scores, positive, negative)
                return entropy / rows + jnp.sum(of_kind, axis=0)

            grow = 1 + rate * apart
            after = grow[..., 0] * factors.table
            uploaded = jnp.where(active, alpha, 0.0)[:, None] * weights
            taken = apart * factors.table[..., None]
            factors = Factors(
                table=after,
                views=factors.views - rate * apart * weights / after[..., None],
                inner=grow * factors.inner - rate * (met + apart * common),
                by_table=factors.by_table + uploaded * taken,
                by_views=factors.by_views
                + uploaded[..., None] * (taken * factors.views - apart * weights)[..., None, :],
                by_sign=factors.by_sign + uploaded * sparse,
            )
            now = Past(residual / spread(after, 1.0), vector, uploaded, after, factors.by_table)
            by_head = trees.axpy(rates.client_decay, head, by_head)
            carry = Carry(
                head=trees.select(active, trees.axpy(-rates.client_lr, by_head, head), head),
                routers=routing.step(routers, by_router, active, rates.router_lr),
                factors=factors,
                past=jax.tree.map(lambda all, new: all.at[epoch].set(new), past, now),
                by_shared=trees.axpy(
                    1.0,
                    trees.weighted_sum(jnp.where(active, alpha, 0.0), by_shared),
                    by_shared_sum,
                ),
                by_pooled=pull + jnp.where(active[:, None], by_pooled, 0.0),
                loss=jax.lax.cond(epoch == 0, loss, lambda: first_loss),
            )
            return carry, None

        zeros = lambda *shape: jnp.zeros(shape, views.dtype)
        of_view = (2, num_clients, num_views)
        start = Carry(
            head=private["head"],
            routers=routing.start(private["router"], pooled),
            factors=Factors(
                table=jnp.ones(of_view[:2], views.dtype),
                views=zeros(*of_view),
                inner=table_of @ by_entry.T,
                by_table=zeros(*of_view),
                by_views=zeros(*of_view, num_views),
                by_sign=zeros(*of_view),
            ),
            past=Past(
                residual=zeros(epochs, num_clients, num_items),
                vector=zeros(epochs, num_clients, width),
                uploaded=zeros(epochs, num_clients, num_views),
                table=zeros(epochs, *of_view[:2]),
                by_table=zeros(epochs, *of_view),
            ),
            by_shared=jax.tree.map(jnp.zeros_like, broadcast.head),
            by_pooled=jnp.zeros_like(pooled),
            loss=zeros(num_clients),
        )
        end, _ = jax.lax.scan(epoch_step, start, jnp.arange(epochs))
        factors, past = end.factors, end.past

        # An epoch's residual counts as uploaded then, and in the personal rows of later ones.
        later = factors.by_table - past.by_table
        counts = past.uploaded[:, None] * past.table[..., None] - rate * later
        counts = jnp.where(positive[:, None] > 0, counts[:, 0, ..., None], counts[:, 1, ..., None])
        by_views = jnp.tensordot(
            past.residual[:, :, None] * counts, past.vector, axes=((0, 1), (0, 1))
        )
        by_views += jnp.tensordot(factors.by_table, table_of, axes=((0, 1), (0, 1))).reshape(
            views.shape
        )
        of_views = jnp.tensordot(factors.by_views, kinds, axes=((0, 1), (0, 1)))
        for h in range(num_views):
            by_views += of_views[:, h, :, None] * views[h]
        by_sign = jnp.tensordot(factors.by_sign, kinds, axes=((0, 1), (0, 1)))
        by_views += by_sign[..., None] * jnp.sign(views)
        router, by_pooled = routing.finish(private["router"], end.routers, pooled, rates.router_lr)
        pull = (alpha[:, None] / length) * (end.by_pooled + by_pooled)
        by_views = jnp.swapaxes(by_views, 0, 1)
        by_views += (positive.T @ pull).reshape(by_views.shape)

        items = table - rate * jnp.einsum("aki,akd->kid", past.residual, past.vector)
        toward = spread(factors.views, 0.0)
        for g in range(num_views):
            items += toward[:, g, :, None] * views[g]
        items *= spread(factors.table, 1.0)[..., None]
        trained = {"head": end.head, "router": router, "items": items}
        trained = trees.select(cohort.present, trained, private)
        return LocalResult(
            private=trained,
            upload=Upload(by_views, end.by_shared),
            loss=jnp.where(cohort.present, end.loss, 0.0),
            clipped=jnp.zeros(num_clients, bool),
            bad_leaf=trees.bad_leaf_of_rows(ClientNumbers(end.loss, **trained), num_clients),
        )

    return update
