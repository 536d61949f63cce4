"""The clients' routers through the local epochs of a round.

If no epoch changes the pooled history h of a client, its router's first layer z = W^T h + b has
only this input, and every gradient of W is an outer product h (x) dz. It is enough to train z,

    z_{a+1} = z_a - lr (|h|^2 + 1) dz_a,

and with s_a = sum_{e<a} dz_e the layer, and the gradient by h over all epochs, follow once:

    W_A = W_0 - lr h (x) s_A,    sum_a W_a dz_a = W_0 s_A - lr h sum_a <s_a, dz_a>.

With a small catalogue the router is the largest private array of a client. The plan reads and
writes it once per round instead of once per epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax import trees
from fedvlr_jax.fusion import Fusion
from fedvlr_jax.types import PyTree


class Memory(NamedTuple):
    """s [K, h], sum_a <s_a, dz_a> [K] and |h|^2 + 1 [K] of the module's docstring."""

    pulled: jax.Array
    overlap: jax.Array
    stride: jax.Array


class Routers(NamedTuple):
    """The state of routers within a round: the trained parameters and the accumulated sums."""

    params: PyTree
    memory: Any = None


class Routing(NamedTuple):
    """The training of routers. All functions but `weights` take stacked clients.

    Attributes:
      start: (private router rows, pooled histories [K, G * d]) -> Routers.
      weights: (the params of ONE client, its pooled history [G * d]) -> weights [G].
      step: (Routers, gradient by their params, active [K], step size) -> Routers.
      finish: (private router rows, Routers, pooled [K, G * d], step size) -> (new rows,
        gradient by the pooled histories over all epochs, without the part through `weights`).
    """

    start: Callable[[PyTree, jax.Array], Routers]
    weights: Callable[[PyTree, jax.Array], jax.Array]
    step: Callable[[Routers, PyTree, jax.Array, jax.Array], Routers]
    finish: Callable[[PyTree, Routers, jax.Array, jax.Array], tuple[PyTree, Any]]


def make_routing(fusion: Fusion, *, pooled_stays: bool) -> Routing:
    """The routing of a fusion; `pooled_stays`: no epoch changes the pooled histories."""
    if pooled_stays and fusion.after_first is not None:
        return _through_first_layer(fusion.after_first)

    def step(routers, gradient, active, rate):
        moved = trees.axpy(-rate, gradient, routers.params)
        return Routers(trees.select(active, moved, routers.params))

    return Routing(
        start=lambda rows, pooled: Routers(rows),
        weights=fusion.route,
        step=step,
        finish=lambda rows, routers, pooled, rate: (routers.params, 0.0),
    )


def _through_first_layer(after_first: Callable[[PyTree, jax.Array], jax.Array]) -> Routing:
    def start(rows, pooled):
        first = rows["first"]
        z = jnp.einsum("kp,kph->kh", pooled, first["kernel"]) + first["bias"]
        stride = jnp.sum(jnp.square(pooled), axis=1) + 1
        return Routers(
            {**rows, "first": z}, Memory(jnp.zeros_like(z), jnp.zeros_like(stride), stride)
        )

    def weights(params, pooled):
        return after_first(params, params["first"])

    def step(routers, gradient, active, rate):
        pulled, overlap, stride = routers.memory
        grad_z = jnp.where(active[:, None], gradient["first"], 0.0)
        moved = trees.axpy(-rate, gradient, routers.params)
        params = trees.select(active, moved, routers.params)
        params["first"] = routers.params["first"] - rate * stride[:, None] * grad_z
        overlap = overlap + jnp.sum(pulled * grad_z, axis=1)
        return Routers(params, Memory(pulled + grad_z, overlap, stride))

    def finish(rows, routers, pooled, rate):
        pulled, overlap, _ = routers.memory
        kernel, bias = rows["first"]["kernel"], rows["first"]["bias"]
        grad_pooled = jnp.einsum("kph,kh->kp", kernel, pulled) - rate * overlap[:, None] * pooled
        first = {
            "kernel": kernel - rate * pooled[:, :, None] * pulled[:, None, :],
            "bias": bias - rate * pulled,
        }
        return {**routers.params, "first": first}, grad_pooled

    return Routing(start, weights, step, finish)
