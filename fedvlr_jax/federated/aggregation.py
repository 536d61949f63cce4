"""Weights of the clients, and the server's step on their weighted mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.config import FederationConfig


def normalised_weights(weight: jax.Array, present: jax.Array) -> jax.Array:
    """float32 [K]: alpha_u over the present clients, summing to one (all 0 if none answers)."""
    weight = jnp.where(present, weight, 0.0)
    return weight / jnp.maximum(jnp.sum(weight), 1e-30)


SERVER_OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": lambda step: optax.sgd(step, momentum=0.9),
    "adam": optax.adam,
    "yogi": optax.yogi,
}


def server_optimizer(config: FederationConfig) -> optax.GradientTransformation:
    """One optimizer with its own step for each of the server's parts."""
    make = SERVER_OPTIMIZERS[config.server_optimizer]

    def part(step: float) -> optax.GradientTransformation:
        # Decoupled: the decay is added behind the optimizer, scaled by the step alone.
        return optax.chain(make(step), optax.add_decayed_weights(-step * config.server_decay))

    return optax.partition(
        {
            "items": part(config.server_lr_items),
            "fusion": part(config.server_lr_fusion),
            "head": part(config.server_lr_head),
        },
        {"items": "items", "fusion": "fusion", "head": "head"},
    )
