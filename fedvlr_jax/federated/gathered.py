"""Local epochs on the rows that a client touches: any backbone, any score.

Each client works on slots: its history and, with sampled negatives, all its draws of the
round, every item once; with expected negatives the whole catalogue. What repeats becomes
a weight of the slot, so that duplicates share one row and training the slots equals
training the whole table.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.data.cohorts import draw_negatives, expected_negatives
from fedvlr_jax.federated.local import (
    Broadcast,
    ClientNumbers,
    LocalResult,
    LocalUpdate,
    Task,
    client_keys,
    likeness,
    make_loss,
    num_rows,
    row_penalty,
)
from fedvlr_jax.types import Cohort, Histories, PyTree
from fedvlr_jax.uplink.uploads import SlotUploads


class Slots(NamedTuple):
    """The rows of one client's round.

    Attributes:
      item: int32 [M], each once; padding is I.
      positive: float32 [M], how much it counts in the history.
      negative: float32 [A, M], how often (or how often expected) each is a negative.
    """

    item: jax.Array
    positive: jax.Array
    negative: jax.Array


def num_slots(task: Task, history_length: int) -> int:
    """M for histories padded to `history_length`."""
    config = task.config.federation
    touched = history_length * (1 + config.local_epochs * config.num_negatives)
    if config.negatives == "expected":
        return task.model.num_items
    return min(touched, task.model.num_items)


def make_slots(task: Task, histories: Histories, keys: jax.Array) -> Slots:
    """The slots of ONE client: leaves of `histories` without their first axis."""
    item, count = histories.item, histories.count
    weight = 1.0 if histories.weight is None else histories.weight
    config, num_items = task.config.federation, task.model.num_items
    size = num_slots(task, item.shape[0])
    drawn = None
    if config.negatives == "sampled":
        draw = lambda key: draw_negatives(key, item, count, task.pool, config.num_negatives)
        drawn = jax.vmap(draw)(keys)
    if drawn is None or size == num_items:
        slot, history, places = jnp.arange(num_items), item, drawn
    else:
        touched = jnp.concatenate([item, drawn.reshape(-1)])
        slot, place = jnp.unique(touched, size=size, fill_value=num_items, return_inverse=True)
        # Padding must fall out of the slots, or it would count as a row.
        place = jnp.where(touched < num_items, place, size)
        history, places = place[: item.shape[0]], place[item.shape[0] :].reshape(drawn.shape)
    positive = jnp.zeros(size).at[history].set(weight, mode="drop")
    if places is None:
        negative = expected_negatives(positive, count, task.pool, config.num_negatives)
        negative = jnp.broadcast_to(negative, (config.local_epochs, size))
    else:
        count_of = lambda place: jnp.zeros(size).at[place].add(1.0, mode="drop")
        negative = jax.vmap(count_of)(places)
    return Slots(slot, positive, negative)


def make_gathered_update(task: Task) -> LocalUpdate:
    """The gathered plan."""
    model, config = task.model, task.config.federation
    backbone, fusion = model.backbone, model.fusion
    delta = config.upload == "delta"
    value = make_loss(task).value

    def train_client(broadcast, private, slots, count, responded, local_epochs):
        """One client's local epochs: (private, by-slot gradient [M, G, d], by-head, loss)."""
        rates = broadcast.rates
        moving = rates.delta_lr if delta else 0.0
        kind = broadcast.views.dtype
        rows = num_rows(count, task.pool, config.num_negatives).astype(kind)
        length = jnp.maximum(count, 1).astype(kind)
        views0 = broadcast.views.at[slots.item].get(mode="fill", fill_value=0)
        personal0 = None
        if backbone.item_rows:
            personal0 = private["items"].at[slots.item].get(mode="fill", fill_value=0)
            if backbone.item_rows == "tuned":
                personal0 = jnp.zeros_like(personal0)

        def loss_of(views, shared, trained, negative):
            pooled = jnp.einsum("m,mgd->gd", slots.positive, views).reshape(-1) / length
            weights = fusion.route(trained["router"], pooled)
            common = jnp.einsum("g,mgd->md", weights, views)
            vectors = common + trained["items"] if "items" in trained else common
            scores = backbone.score(shared, trained["head"], vectors)
            if model.history_weight:
                mean = weights @ pooled.reshape(len(weights), -1)
                scores += likeness(common, mean, slots.positive, length, model.history_weight)
            total = value(scores, slots.positive, negative)
            if backbone.penalty is not None:
                sizes = jnp.mean(jnp.abs(views), axis=-1)
                of_round = backbone.penalty(broadcast.round)
                penalty = row_penalty(of_round, weights, sizes, common, trained["items"])
                total += jnp.sum((slots.positive + negative) * penalty)
            return total / rows

        steps = {"head": rates.client_lr, "router": rates.router_lr, "items": rates.item_lr}

        def epoch_step(carry, inputs):
            trained, views_sum, shared_sum, first_loss = carry
            epoch, negative = inputs
            active = responded & (epoch < local_epochs)
            loss, (by_views, by_shared, by_trained) = jax.value_and_grad(loss_of, (0, 1, 2))(
                trees.axpy(-moving, views_sum, views0),
                trees.axpy(-moving, shared_sum, broadcast.head),
                trained,
                negative,
            )
            by_trained["head"] = trees.axpy(rates.client_decay, trained["head"], by_trained["head"])
            moved = {
                name: trees.axpy(-steps[name], by_trained[name], trained[name]) for name in trained
            }
            choose = lambda new, old: jax.tree.map(lambda a, b: jnp.where(active, a, b), new, old)
            carry = (
                choose(moved, trained),
                choose(trees.axpy(1.0, by_views, views_sum), views_sum),
                choose(trees.axpy(1.0, by_shared, shared_sum), shared_sum),
                jnp.where(epoch == 0, loss, first_loss),
            )
            return carry, None

        trained = {"head": private["head"], "router": private["router"]}
        if personal0 is not None:
            trained["items"] = personal0
        zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
        carry = (trained, zeros(views0), zeros(broadcast.head), jnp.zeros(()))
        (trained, by_views, by_shared, loss), _ = jax.lax.scan(
            epoch_step, carry, (jnp.arange(config.local_epochs), slots.negative)
        )
        if personal0 is not None:
            base = private["items"]
            if backbone.item_rows == "tuned":
                base = jnp.where(responded, 0.0, base)
            kept = jnp.where(responded, slots.item, model.num_items)
            trained["items"] = base.at[kept].set(trained["items"], mode="drop")
        return trained, by_views, by_shared, loss

    def update(
        broadcast: Broadcast, cohort: Cohort, alpha: jax.Array, private: PyTree, key: jax.Array
    ) -> LocalResult:
        histories = cohort.histories
        num_clients = histories.item.shape[0]
        keys = client_keys(key, histories.client, config.local_epochs)
        slots = jax.vmap(lambda history, k: make_slots(task, history, k))(histories, keys)
        trained, by_views, by_shared, loss = jax.vmap(train_client, in_axes=(None, 0, 0, 0, 0, 0))(
            broadcast, private, slots, histories.count, cohort.responded, cohort.local_epochs
        )

        uploads = SlotUploads(
            item=slots.item,
            rows_of_views=by_views,
            head=by_shared,
            scale=broadcast.rates.delta_lr if delta else 1.0,
            num_items=model.num_items,
            whole=slots.item.shape[1] == model.num_items and config.negatives == "expected",
        )
        numbers = ClientNumbers(loss, **trained)
        bad = trees.bad_leaf_of_rows(numbers, num_clients)
        return LocalResult(trained, uploads, jnp.where(cohort.responded, loss, 0.0), bad)

    return update
