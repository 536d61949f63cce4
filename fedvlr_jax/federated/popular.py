"""The defence of PIECK (Zhang et al. 2024): two terms of the clients' loss against forged items.

A client finds the popular items as the attack does: their vectors move most from the first
broadcast to the second. With v_k the fused vector of the popular item of rank k = 1 to s, held
fixed, v_j that of another item, theta the client's private vector, and weights w_k proportional to
(s + 1 - k)^2 that sum to 1, the client adds to its loss

    - similarity * sum_k w_k mean_j cos(v_k, v_j)
    - distance   * sum_k w_k KL(softmax(theta) || softmax(v_k)) / d.

The mean is over the client's rows outside the popular items, each as often as it counts in the
loss. The first term makes other items similar to popular ones, so that similarity does not promote
a target (PIECK-IPE). The second prevents attackers from using popular items as users (PIECK-UEA).

The formulas and the weights of the ranks are those of the published code. *choice*: the server
stores the first broadcast, and all clients use the same popular items. In the published code each
client stores the first broadcast that it received.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.config import Config
from fedvlr_jax.federated.local import Task
from fedvlr_jax.federated.separate_compilation import compiled_alone
from fedvlr_jax.types import PyTree, ServerState


class Popular(NamedTuple):
    """The popular items, the same for all clients.

    Attributes:
      item: int32 [s], in descending order of their movement.
      weight: [s], w_k; 0 before the popular items are known.
      views: their broadcast views [s, G, d].
    """

    item: jax.Array
    weight: jax.Array
    views: jax.Array


def popular_memory(config: Config, shape: tuple[int, ...]) -> PyTree:
    """`ServerState.popular` before the first round, for views of `shape`, or ()."""
    if not config.defense.active:
        return ()
    return {
        "first": jnp.zeros(shape),
        "item": jnp.zeros(config.defense.defense_items, jnp.int32),
        "known": jnp.zeros((), bool),
    }


def remember_popular(memory: PyTree, views: jax.Array, round_number: jax.Array) -> PyTree:
    """The memory after a broadcast of `views` [I, G, d].

    The popular items are found at the first broadcast that differs from that of round 0, and stay.
    """
    change = jnp.sum(jnp.square(views - memory["first"]), axis=(1, 2))
    found = ~memory["known"] & (round_number > 0) & jnp.any(change > 0)
    _, moved = jax.lax.top_k(change, memory["item"].shape[0])
    return {
        "first": jnp.where(round_number == 0, views, memory["first"]),
        "item": jnp.where(found, moved.astype(jnp.int32), memory["item"]),
        "known": memory["known"] | found,
    }


def announced(server: ServerState, views: jax.Array) -> tuple[Popular | None, PyTree]:
    """(the popular items of a broadcast of `views`, the memory after it); (None, ()) without the
    defence."""
    if not server.popular:
        return None, ()

    def announce(memory, views, round_number):
        memory = remember_popular(memory, views, round_number)
        count = memory["item"].shape[0]
        weight = jnp.square(jnp.arange(count, 0, -1).astype(views.dtype))
        weight = jnp.where(memory["known"], weight / jnp.sum(weight), 0.0)
        return Popular(memory["item"], weight, views[memory["item"]]), memory

    return compiled_alone(server.round >= 0, announce, server.popular, views, server.round)


def popular_term(
    task: Task,
    popular: Popular,
    router_weights: jax.Array,
    vectors: jax.Array,
    item: jax.Array,
    counts: jax.Array,
    heads: tuple[PyTree, PyTree],
) -> jax.Array:
    """The two terms of ONE client's loss [].

    Args:
      router_weights: of its router [G]. vectors: its fused vectors [M, d], without private rows.
      item: int32 [M], the items of `vectors`. counts: how often each is a row of the loss [M].
      heads: the shared head and the client's private one.
    """
    defense, linear = task.config.defense, task.model.backbone.linear
    known = jax.lax.stop_gradient(jnp.einsum("g,sgd->sd", router_weights, popular.views))
    total = jnp.zeros((), vectors.dtype)
    if defense.defense_similarity:
        others = jnp.where(jnp.isin(item, popular.item), 0.0, counts)
        mean = others / jnp.maximum(jnp.sum(others), 1e-30)
        # The mean of cosines is the product of the mean unit vectors.
        alike = (popular.weight @ _unit(known)) @ (mean @ _unit(vectors))
        total -= defense.defense_similarity * alike
    if defense.defense_distance:
        assert linear is not None
        own = jax.nn.log_softmax(linear(*heads).vector)[None]
        apart = jnp.mean(jnp.exp(own) * (own - jax.nn.log_softmax(known, axis=1)), axis=1)
        total -= defense.defense_distance * (popular.weight @ apart)
    return total


def _unit(vectors: jax.Array) -> jax.Array:
    """The rows [R, d] with length 1; a row of zeros stays, and has no gradient."""
    square = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
    return jnp.where(square > 0, vectors / jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
