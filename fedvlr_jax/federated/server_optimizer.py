"""The server's step on the combined upload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from fedvlr_jax import registry
from fedvlr_jax.types import PyTree, Rates

# Step -> optimizer.
SERVER_OPTIMIZERS: Mapping[str, Callable[[Any], optax.GradientTransformation]] = registry.Objects(
    registry.OPTIMIZERS
)


def no_step(step: Any) -> optax.GradientTransformation:
    """Changes nothing."""
    return optax.set_to_zero()


def sgd(step: Any) -> optax.GradientTransformation:
    """Gradient descent."""
    return optax.sgd(step)


def momentum(step: Any) -> optax.GradientTransformation:
    """Gradient descent with momentum 0.9."""
    return optax.sgd(step, momentum=0.9)


def adam(step: Any) -> optax.GradientTransformation:
    """Adam, with the defaults of Optax."""
    return optax.adam(step)


def yogi(step: Any) -> optax.GradientTransformation:
    """Yogi, with the defaults of Optax."""
    return optax.yogi(step)


def server_optimizer(name: str, rates: Rates) -> optax.GradientTransformation:
    """The optimizer `name` with its own step for each of the server's parts.

    The ID table and the operators have weight decay; the backbone's shared head does not. "none"
    changes nothing: each client then learns from its own data only.
    """
    make = SERVER_OPTIMIZERS[name]
    if name == "none":
        return make(0.0)

    def decayed(step: Any) -> optax.GradientTransformation:
        # Decoupled decay: added after the optimizer, scaled only by the step.
        return optax.chain(make(step), optax.add_decayed_weights(-step * rates.server_decay))

    return optax.partition(
        {
            "items": decayed(rates.server_lr_items),
            "fusion": decayed(rates.server_lr_fusion),
            "head": make(rates.server_lr_head),
        },
        {"items": "items", "fusion": "fusion", "head": "head"},
    )


def server_step(
    optimizer: optax.GradientTransformation, gradient: PyTree, state: PyTree, shared: PyTree
) -> tuple[PyTree, PyTree]:
    """(the shared parameters after one step, the optimizer's state after it)."""
    # Optax raises its decays to an integer power, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        change, state = optimizer.update(gradient, state, shared)
    return optax.apply_updates(shared, change), state
