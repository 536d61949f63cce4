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
products an epoch, P0 theta and its transpose, and is written once, where it lies, after the round
is known to be finite (`write_back_factored`). What the cohort uploads is known by few numbers in
the same bases and the signs of the views, and what the penalty pulls a router by, from sums over
the rows of a kind.
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
    make_loss,
    num_rows,
    views_stay,
)
from fedvlr_jax.federated.routing import Routers, make_routing
from fedvlr_jax.types import Cohort, PyTree
from fedvlr_jax.uplink import Upload


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
    """By epoch, E of them: r [K, E, I], theta [K, E, d], alpha w [K, E, G], and `Factors.table`
    [2, K, E] and `Factors.by_table` [2, K, E, G] as they are after it."""

    residual: jax.Array
    vector: jax.Array
    uploaded: jax.Array
    table: jax.Array
    by_table: jax.Array


class OfViews(NamedTuple):
    """What of the views F [I, G, d] is the same for all chunks of a round.

    Attributes:
      in_pool: the rows of the pool, 0 elsewhere, as the rows of a table lie [G, I * d].
      products: <F_h,i, F_g,i> [I, G, G]. size: |F_g,i| [I, G]. largest: of all |F_g| [G].
    """

    in_pool: jax.Array
    products: jax.Array
    size: jax.Array
    largest: jax.Array


class Rows(NamedTuple):
    """What is known of a chunk's rows before the first epoch.

    Attributes:
      kinds: 1 where a row is of the kind [2, K, I], the history first.
      own: the personal rows of the history [K, I, d], 0 elsewhere.
      inner: sum over the kind's rows of <P0_i, F_g,i> [2, K, G].
      views_inner, size: the same of <F_h,i, F_g,i> [2, K, G, G] and of |F_g,i| [2, K, G].
    """

    kinds: jax.Array
    own: jax.Array
    inner: jax.Array
    views_inner: jax.Array
    size: jax.Array


class MovedItems(NamedTuple):
    """What makes a client's rows after a round of those before it: P of the module's docstring.

    Attributes:
      kind: int8 [K, I], 1 where a row is of the history, 2 of the negatives, 0 of neither.
      table, views: A [K, 2] and B [K, 2, G] after the last epoch.
      residual, vector: r [K, E, I] and theta [K, E, d] by epoch.
    """

    kind: jax.Array
    table: jax.Array
    views: jax.Array
    residual: jax.Array
    vector: jax.Array


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


def factored_view_cache(task: Task, views: jax.Array) -> OfViews:
    """What `Broadcast.view_cache` is for this plan."""
    in_pool = jnp.where(task.pool.member[:, None, None], views, 0.0)
    magnitudes = jnp.abs(views)
    return OfViews(
        in_pool=jnp.swapaxes(in_pool, 0, 1).reshape(views.shape[1], -1),
        products=jnp.einsum("ihd,igd->ihg", views, views),
        size=jnp.sum(magnitudes, axis=2),
        largest=jnp.max(magnitudes, axis=(0, 2)),
    )


def make_rows(known: OfViews, table: jax.Array, positive: jax.Array, negative: jax.Array) -> Rows:
    """The rows of clients with the personal `table` [K, I, d].

    The history lies in the pool, and the negatives are the rest of it: sums over them are those
    over the pool without the history's. Only the history's rows are copied out of the table.
    """
    kinds = jnp.stack([positive, (negative > 0).astype(positive.dtype)])
    own = positive[..., None] * table
    by_client = lambda of: of.reshape(len(of), -1) @ known.in_pool.T
    inner, whole = by_client(own), by_client(table)
    return Rows(
        kinds=kinds,
        own=own,
        inner=jnp.stack([inner, whole - inner]),
        views_inner=jnp.tensordot(kinds, known.products, axes=1),
        size=kinds @ known.size,
    )


def first_factors(inner: jax.Array) -> Factors:
    """Before the first epoch, given `Factors.inner`."""
    none = jnp.zeros_like(inner)
    return Factors(
        table=jnp.ones(inner.shape[:2], inner.dtype),
        views=none,
        inner=inner,
        by_table=none,
        by_views=jnp.zeros((*inner.shape, inner.shape[2]), inner.dtype),
        by_sign=none,
    )


def move(
    factors: Factors,
    met: jax.Array,
    common: jax.Array,
    weights: jax.Array,
    uploaded: jax.Array,
    apart: jax.Array,
    sparse: jax.Array,
    rate: jax.Array,
) -> Factors:
    """The factors one epoch on.

    Args:
      met: sum over the kind's rows of e_i <theta, F_g,i> [2, K, G].
      common: as `Factors.inner`, of the common rows.
      weights, uploaded: w and alpha w [K, G]; apart, sparse: k and l [2, K, 1].
    """
    weights, uploaded = weights[None], uploaded[None]
    grow = 1 + rate * apart
    table = grow[..., 0] * factors.table
    taken = apart * factors.table[..., None]
    view_cache = taken * factors.views - apart * weights
    return Factors(
        table=table,
        views=factors.views - rate * apart * weights / table[..., None],
        inner=grow * factors.inner - rate * (met + apart * common),
        by_table=factors.by_table + uploaded * taken,
        by_views=factors.by_views + uploaded[..., None] * view_cache[..., None, :],
        by_sign=factors.by_sign + uploaded * sparse,
    )


def penalties(
    rows: Rows,
    table: jax.Array,
    inner: jax.Array,
    common: jax.Array,
    weights: jax.Array,
    apart: jax.Array,
    sparse: jax.Array,
) -> jax.Array:
    """What the penalty adds to the loss where the rows are those of `table` [2, K]; the
    arguments are as in `Factors` and `move`."""
    weights = weights[None]
    distance = jnp.einsum("cki,ki->ck", rows.kinds, jnp.sum(jnp.square(table), axis=-1))
    distance += jnp.sum(weights * (common - 2 * inner), axis=2)
    return jnp.sum(sparse * weights * rows.size, axis=2) - apart[..., 0] / 2 * distance


def no_past(clients: int, epochs: int, views: tuple[int, ...], dtype: jnp.dtype) -> Past:
    """What `remember` fills, for views of shape [I, G, d]."""
    num_items, num_views, width = views
    zeros = lambda *shape: jnp.zeros(shape, dtype)
    return Past(
        residual=zeros(clients, epochs, num_items),
        vector=zeros(clients, epochs, width),
        uploaded=zeros(clients, epochs, num_views),
        table=zeros(2, clients, epochs),
        by_table=zeros(2, clients, epochs, num_views),
    )


def remember(past: Past, now: Past, epoch: jax.Array) -> Past:
    """`past` with an epoch's numbers, `now`, which has no axis of epochs."""
    axes = 1, 1, 1, 2, 2
    put = lambda all, new, axis: jax.lax.dynamic_update_index_in_dim(all, new, epoch, axis)
    return Past(*(put(*each) for each in zip(past, now, axes, strict=True)))


def spread(kinds: jax.Array, numbers: jax.Array, outside: Any) -> jax.Array:
    """[2, K] or [2, K, I] a kind as [K, I], `outside` where a row is of neither kind."""
    first, second = numbers[..., None] if numbers.ndim == 2 else numbers
    return jnp.where(kinds[0] > 0, first, jnp.where(kinds[1] > 0, second, outside))


def upload_of(
    views: jax.Array,
    pool: jax.Array,
    table: jax.Array,
    rows: Rows,
    factors: Factors,
    past: Past,
    rate: jax.Array,
) -> jax.Array:
    """What the clients upload by their rows, summed: [I, G, d]. pool: as `NegativePool.member`."""
    num_items, num_views, width = views.shape
    # An epoch's residual counts as uploaded then, and in the personal rows of later ones.
    later = factors.by_table[:, :, None] - past.by_table
    counts = past.uploaded[None] * past.table[..., None] - rate * later
    vectors = past.vector.reshape(-1, width)

    def outer(counts):
        first, second = counts[..., None]
        counted = past.residual * jnp.where(rows.kinds[0][:, None] > 0, first, second)
        return counted.reshape(-1, num_items).T @ vectors

    total = jnp.stack([outer(counts[..., g]) for g in range(num_views)], axis=1)

    at_rows = lambda numbers: jnp.tensordot(rows.kinds, numbers, axes=((0, 1), (0, 1)))
    view_cache, of_sign = at_rows(factors.by_views), at_rows(factors.by_sign)
    for h in range(num_views):
        total += view_cache[:, :, h, None] * views[:, h, None]
    total += of_sign[..., None] * jnp.sign(views)

    # As in `make_rows`: by the whole pool, and what the history has beyond that.
    by_table = lambda numbers, of: jnp.swapaxes(
        (numbers.T @ of.reshape(len(of), -1)).reshape(num_views, num_items, width), 0, 1
    )
    first, second = factors.by_table
    total += jnp.where(pool[:, None, None], by_table(second, table), 0.0)
    return total + by_table(first - second, rows.own)


def moved_items(kinds: jax.Array, factors: Factors, past: Past) -> MovedItems:
    """`MovedItems` of clients whose rows are of the `kinds` [2, K, I]."""
    first, second = kinds
    by_client = lambda of: jnp.swapaxes(of, 0, 1)
    return MovedItems(
        kind=(first + 2 * second).astype(jnp.int8),
        table=by_client(factors.table),
        views=by_client(factors.views),
        residual=past.residual,
        vector=past.vector,
    )


def trained_items(views: jax.Array, table: jax.Array, moved: MovedItems, rate: jax.Array):
    """The personal rows after the epochs [K, I, d], of those before them."""
    items = table
    # Unrolled: all terms are then added while a row is at hand, in one pass over the table.
    for a in range(moved.vector.shape[1]):
        items -= rate * moved.residual[:, a, :, None] * moved.vector[:, a, None]
    kinds = jnp.stack([moved.kind == 1, moved.kind == 2]).astype(moved.kind.dtype)
    for g in range(views.shape[1]):
        items += spread(kinds, moved.views[..., g].T, 0.0)[..., None] * views[None, :, g]
    return spread(kinds, moved.table.T, 1.0)[..., None] * items


def bound_of_items(known: OfViews, moved: MovedItems, rate: jax.Array) -> jax.Array:
    """[K]: a number that no entry of `trained_items` can exceed, given a finite loss.

    The first epoch's loss holds the squares of all rows that move: where it is finite in
    float32, no entry was above 2e19. So the table need not be made to know that it is finite.
    """
    largest = lambda of, *axes: jnp.max(jnp.abs(of), axis=axes)
    steps = rate * jnp.sum(largest(moved.residual, 2) * largest(moved.vector, 2), axis=1)
    pulled = jnp.max(jnp.abs(moved.views) @ known.largest, axis=1)
    return largest(moved.table, 1) * (2e19 + steps + pulled)


def fits_factored(task: Task) -> bool:
    """Whether the plan can train these clients.

    The rows of a history move alike only where its items count alike.
    """
    backbone = task.model.backbone
    linear = backbone.linear is not None and not task.model.history_weight
    penalised = backbone.penalty is not None
    return linear and penalised and not task.weighted and views_stay(task)


def make_factored_update(task: Task) -> LocalUpdate:
    """The factored plan, for a task that `fits_factored`."""
    model, config = task.model, task.config.federation
    backbone, epochs = model.backbone, config.local_epochs
    num_items, width = model.num_items, model.width
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
        histories, rates, views = cohort.histories, broadcast.rates, broadcast.views
        num_clients, table, rate = alpha.shape[0], private["items"], rates.item_lr
        positive = multi_hot(histories, num_items)
        negative = expected_negatives(positive, histories.count, task.pool, config.num_negatives)
        rows = num_rows(histories.count, task.pool, config.num_negatives).astype(views.dtype)
        share = jnp.stack([jnp.ones_like(alpha), jnp.max(negative, axis=1)]) / (rows * width)[None]
        length = jnp.maximum(histories.count, 1)[:, None].astype(views.dtype)
        by_item = views.reshape(num_items, -1)
        pooled = (positive @ by_item) / length
        shared = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_clients, *leaf.shape)), broadcast.head
        )
        penalty = penalty_of(broadcast.round)
        known = make_rows(broadcast.view_cache, table, positive, negative)

        def epoch_step(carry: Carry, epoch):
            head, routers, factors, past, by_shared_sum, pull, first_loss = carry
            active = cohort.responded & (epoch < cohort.local_epochs)
            weigh = lambda of: jnp.where(active, of * share, 0.0)[..., None]
            apart, sparse = weigh(2 * penalty.apart), weigh(penalty.sparse)

            (vector, bias, weights), pull_back = jax.vjp(
                jax.vmap(query), shared, head, routers.params, pooled
            )
            # A row of kind c is A_c times the row at the start, a few vectors, and
            # sum_g mixed_c,g F_g.
            mixed = weights[None] + factors.table[..., None] * factors.views
            queries = mixed[..., None] * vector[None, :, None]
            by_views = queries.reshape(2 * num_clients, -1) @ by_item.T
            by_views = spread(known.kinds, by_views.reshape(known.kinds.shape), 0.0)
            grown = spread(known.kinds, factors.table, 1.0)
            along = jnp.einsum("kad,kd->ka", past.vector, vector)
            scores = jnp.einsum("kid,kd->ki", table, vector)
            scores -= rate * jnp.einsum("kai,ka->ki", past.residual, along)
            scores = grown * scores + by_views + bias[:, None]
            residual = loss_of.slope(scores, positive, negative)
            residual = jnp.where(active[:, None], residual / rows[:, None], 0.0)

            # sum over the kind's rows of e_i F_g,i [2, K, G, d].
            of_kind = (known.kinds * residual[None]).reshape(-1, num_items) @ by_item
            of_kind = of_kind.reshape(queries.shape)
            met = jnp.einsum("ckgd,kd->ckg", of_kind, vector)
            grown *= residual
            by_vector = jnp.einsum("kid,ki->kd", table, grown)
            by_vector += jnp.einsum("ckg,ckgd->kd", mixed, of_kind)
            overlap = jnp.einsum("kai,ki->ka", past.residual, grown)
            by_vector -= rate * jnp.einsum("ka,kad->kd", overlap, past.vector)
            # As `Factors.inner`, of the common rows.
            common = jnp.einsum("kh,ckhg->ckg", weights, known.views_inner)
            by_weights = met + apart * (factors.inner - common) + sparse * known.size
            by_shared, by_head, by_router, by_pooled = pull_back(
                (by_vector, jnp.sum(residual, axis=1), jnp.sum(by_weights, axis=0))
            )

            def loss():
                """Where the client stood when the round began."""
                entropy = loss_of.value(scores, positive, negative)
                of_kind = penalties(known, table, factors.inner, common, weights, apart, sparse)
                return entropy / rows + jnp.sum(of_kind, axis=0)

            uploaded = jnp.where(active, alpha, 0.0)[:, None] * weights
            after = move(factors, met, common, weights, uploaded, apart, sparse, rate)
            now = Past(
                residual=residual / spread(known.kinds, after.table, 1.0),
                vector=vector,
                uploaded=uploaded,
                table=after.table,
                by_table=after.by_table,
            )
            by_head = trees.axpy(rates.client_decay, head, by_head)
            carry = Carry(
                head=trees.select(active, trees.axpy(-rates.client_lr, by_head, head), head),
                routers=routing.step(routers, by_router, active, rates.router_lr),
                factors=after,
                past=remember(past, now, epoch),
                by_shared=trees.axpy(
                    1.0,
                    trees.weighted_sum(jnp.where(active, alpha, 0.0), by_shared),
                    by_shared_sum,
                ),
                by_pooled=pull + jnp.where(active[:, None], by_pooled, 0.0),
                loss=jax.lax.cond(epoch == 0, loss, lambda: first_loss),
            )
            return carry, None

        start = Carry(
            head=private["head"],
            routers=routing.start(private["router"], pooled),
            factors=first_factors(known.inner),
            past=no_past(num_clients, epochs, views.shape, views.dtype),
            by_shared=jax.tree.map(jnp.zeros_like, broadcast.head),
            by_pooled=jnp.zeros_like(pooled),
            loss=jnp.zeros(num_clients, views.dtype),
        )
        end, _ = jax.lax.scan(epoch_step, start, jnp.arange(epochs))
        router, by_pooled = routing.finish(private["router"], end.routers, pooled, rates.router_lr)
        pull = (alpha[:, None] / length) * (end.by_pooled + by_pooled)
        by_views = upload_of(views, task.pool.member, table, known, end.factors, end.past, rate)
        by_views += (positive.T @ pull).reshape(views.shape)
        moved = moved_items(known.kinds, end.factors, end.past)
        trained = {"head": end.head, "router": router}
        bound = bound_of_items(broadcast.view_cache, moved, rate)
        return LocalResult(
            private={**trained, "items": moved},
            uploads=Upload(by_views, end.by_shared),
            loss=jnp.where(cohort.responded, end.loss, 0.0),
            bad_leaf=trees.bad_leaf_of_rows(
                ClientNumbers(end.loss, **trained, items=bound), num_clients
            ),
        )

    return update


def write_back_factored(broadcast: Broadcast, moved: PyTree, private: PyTree) -> PyTree:
    """The private rows after a round, of what the update gave and the rows before it."""
    table, rate = private["items"], broadcast.rates.item_lr
    return {**moved, "items": trained_items(broadcast.views, table, moved["items"], rate)}
