"""Local epochs on the rows that a client touches: any backbone, any score.

Each client works on its slots (`slots.py`), each item once.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.federated.groups import Teacher, teacher_of, with_teacher
from fedvlr_jax.federated.local import Broadcast, LocalInput, LocalResult, LocalUpdate, Task
from fedvlr_jax.federated.losses import Loss, make_loss, num_rows, row_penalty
from fedvlr_jax.federated.model import likeness
from fedvlr_jax.federated.plans.plan import Plan
from fedvlr_jax.federated.plans.slots import Slots, make_slots, num_slots
from fedvlr_jax.federated.plans.steps import client_keys, local_result, sgd_step
from fedvlr_jax.federated.popular import popular_term
from fedvlr_jax.types import Array, PyTree
from fedvlr_jax.uplink import Needs, SlotUploads


class Method(NamedTuple):
    """The parts of the plan that are known before a round is traced."""

    task: Task
    loss: Loss

    @property
    def delta(self) -> bool:
        """Whether a client moves its own copy of the broadcast."""
        return self.task.config.federation.upload == "delta"


class Inputs(NamedTuple):
    """The inputs of clients, [K, ...], or of ONE client.

    Attributes:
      length: int32, of the history. The others are as in `Cohort` and `Client`.
    """

    private: PyTree
    slots: Slots
    length: Array
    responded: jax.Array
    local_epochs: jax.Array
    teacher: Teacher | None


class Client(NamedTuple):
    """ONE client: the inputs that no epoch changes.

    Attributes:
      views: the rows of its slots [M, G, d]. personal: its own rows of them [M, d], or None.
      rows: rows of the loss []. length: of the history, at least 1 [].
      moving: step of its copy of the broadcast; 0 where it keeps none.
      teacher: with --groups, its group's preferences for its slots [M]; else None.
    """

    slots: Slots
    responded: jax.Array
    local_epochs: jax.Array
    views: jax.Array
    personal: jax.Array | None
    rows: jax.Array
    length: jax.Array
    moving: Any
    teacher: Teacher | None


class Carry(NamedTuple):
    """The state of ONE client from epoch to epoch.

    Attributes:
      trained: {"head", "router" and, where a client has them, "items" [M, d]}.
      views: the sum of the gradients by its views [M, G, d].
      head: the same by the shared head.
      loss: of the first epoch [].
    """

    trained: PyTree
    views: jax.Array
    head: PyTree
    loss: jax.Array


def make_gathered_update(task: Task) -> LocalUpdate:
    """The gathered plan."""
    return functools.partial(_update, Method(task, make_loss(task)))


def _update(method: Method, broadcast: Broadcast, local: LocalInput, key: jax.Array) -> LocalResult:
    """A `LocalUpdate`; alpha is left to the uplink."""
    cohort, _, private = local
    task, histories = method.task, cohort.histories
    config, num_items = task.config.federation, task.model.num_items
    keys = client_keys(key, histories.client, config.local_epochs)
    slots = jax.vmap(functools.partial(make_slots, task))(histories, keys)
    train = functools.partial(_train_client, method, broadcast)
    teacher = teacher_of(broadcast.groups, histories.client)
    inputs = Inputs(private, slots, histories.count, cohort.responded, cohort.local_epochs, teacher)
    trained, grad_views, grad_head, loss = jax.vmap(train)(inputs)
    uploads = SlotUploads(
        item=slots.item,
        rows_of_views=grad_views,
        head=grad_head,
        scale=broadcast.rates.delta_lr if method.delta else 1.0,
        num_items=num_items,
        whole=slots.item.shape[1] == num_items and config.negatives == "expected",
    )
    return local_result(cohort, trained, uploads, loss)


def _train_client(method: Method, broadcast: Broadcast, inputs: Inputs) -> Carry:
    """ONE client's local epochs; its "items" in the result are the whole rows [I, d]."""
    private, slots, responded = inputs.private, inputs.slots, inputs.responded
    client = _make_client(method, broadcast, inputs)
    trained = {"head": private["head"], "router": private["router"]}
    if client.personal is not None:
        trained["items"] = client.personal
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    start = Carry(trained, zeros(client.views), zeros(broadcast.head), jnp.zeros(()))
    step = functools.partial(_epoch_step, method, broadcast, client)
    epochs = jnp.arange(method.task.config.federation.local_epochs)
    end, _ = jax.lax.scan(step, start, (epochs, slots.negative))
    if client.personal is None:
        return end
    base = private["items"]
    if method.task.model.backbone.item_rows == "tuned":
        base = jnp.where(responded, 0.0, base)
    kept = jnp.where(responded, slots.item, method.task.model.num_items)
    items = base.at[kept].set(end.trained["items"], mode="drop")
    return end._replace(trained={**end.trained, "items": items})


def _make_client(method: Method, broadcast: Broadcast, inputs: Inputs) -> Client:
    task, kind = method.task, broadcast.views.dtype
    private, slots, count, responded, local_epochs, teacher = inputs
    rows = num_rows(count, task.pool, task.config.federation.num_negatives)
    own_rows = lambda table: table.at[slots.item].get(mode="fill", fill_value=0)
    if teacher is not None:
        teacher = teacher._replace(label=own_rows(teacher.label))
    personal = None
    if task.model.backbone.item_rows:
        personal = own_rows(private["items"])
        if task.model.backbone.item_rows == "tuned":
            personal = jnp.zeros_like(personal)
    return Client(
        slots=slots,
        responded=responded,
        local_epochs=local_epochs,
        views=own_rows(broadcast.views),
        personal=personal,
        rows=rows.astype(kind),
        length=jnp.maximum(count, 1).astype(kind),
        moving=broadcast.rates.delta_lr if method.delta else 0.0,
        teacher=teacher,
    )


def _loss(
    method: Method,
    broadcast: Broadcast,
    client: Client,
    views: jax.Array,
    shared: PyTree,
    trained: PyTree,
    negative: jax.Array,
) -> jax.Array:
    """ONE client's loss [] with its copies of the views and of the shared head."""
    model, positive = method.task.model, client.slots.positive
    pooled = jnp.einsum("m,mgd->gd", positive, views).reshape(-1) / client.length
    weights = model.fusion.route(trained["router"], pooled)
    common = jnp.einsum("g,mgd->md", weights, views)
    vectors = common + trained["items"] if "items" in trained else common
    scores = model.backbone.score(shared, trained["head"], vectors)
    if model.history_weight:
        mean = weights @ pooled.reshape(len(weights), -1)
        scores += likeness(common, mean, positive, client.length, model.history_weight)
    total = with_teacher(method.loss, client.teacher).value(scores, positive, negative)
    if model.backbone.penalty is not None:
        sizes = jnp.mean(jnp.abs(views), axis=-1)
        penalty = model.backbone.penalty(broadcast.round)
        by_row = row_penalty(penalty, weights, sizes, common, trained["items"])
        total += jnp.sum((positive + negative) * by_row)
    total /= client.rows
    if broadcast.popular is not None:
        counts = positive + negative
        heads = shared, trained["head"]
        total += popular_term(
            method.task, broadcast.popular, weights, common, client.slots.item, counts, heads
        )
    return total


def _epoch_step(
    method: Method,
    broadcast: Broadcast,
    client: Client,
    carry: Carry,
    inputs: tuple[jax.Array, jax.Array],
) -> tuple[Carry, None]:
    """One local epoch of ONE client; inputs: the epoch [], its negatives [M]."""
    epoch, negative = inputs
    active = client.responded & (epoch < client.local_epochs)
    loss_of = functools.partial(_loss, method, broadcast, client)
    loss, (grad_views, grad_head, grad_trained) = jax.value_and_grad(loss_of, (0, 1, 2))(
        trees.axpy(-client.moving, carry.views, client.views),
        trees.axpy(-client.moving, carry.head, broadcast.head),
        carry.trained,
        negative,
    )
    moved = sgd_step(broadcast.rates, carry.trained, grad_trained)
    move = functools.partial(jax.tree.map, functools.partial(jnp.where, active))
    carry = Carry(
        trained=move(moved, carry.trained),
        views=move(trees.axpy(1.0, grad_views, carry.views), carry.views),
        head=move(trees.axpy(1.0, grad_head, carry.head), carry.head),
        loss=jnp.where(epoch == 0, loss, carry.loss),
    )
    return carry, None


def gathered_client_bytes(task: Task, history_length: int) -> int:
    """`Plan.client_bytes`: a few arrays over the slots by view, and the negatives by epoch."""
    num_views = len(task.model.fusion.names)
    slot = task.model.width * (4 * num_views + 6) + task.config.federation.local_epochs
    return 4 * num_slots(task, history_length) * slot


GATHERED = Plan(lambda task: True, Needs.WHOLE, make_gathered_update, gathered_client_bytes)
