"""The rows that a client touches in a round, each item once.

The slots of a client are its history and, with sampled negatives, all its draws of the round; with
expected negatives the whole catalogue. The number of times that an item repeats is a weight of its
slot, so training the slots equals training the whole table.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.data.cohorts import draw_negatives, expected_negatives
from fedvlr_jax.federated.local import Task
from fedvlr_jax.types import Histories


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
