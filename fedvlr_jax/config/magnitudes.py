"""Flags whose large values make numbers overflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedvlr_jax.config.automatic import automatic_values
from fedvlr_jax.config.unused import why_unused

if TYPE_CHECKING:
    from fedvlr_jax.config import Config

RATES = (
    *("client_lr", "router_lr", "item_lr", "delta_lr"),
    *("server_lr_items", "server_lr_fusion", "server_lr_head"),
)
MAGNITUDES = (
    *RATES,
    *("client_decay", "server_decay", "init_score", "init_scale", "history_weight"),
    *("fedrap_repulsion", "fedrap_l1", "defense_similarity", "defense_distance"),
    *("attack_strength", "noise_multiplier"),
)
# A flag is suspected above this multiple of its default, or of 1 if the default is 0.
FAR = 10.0


def what_to_lower(config: Config) -> str:
    """The flags to lower after a number that is not finite: those far above their defaults.

    Without any, the learning rates that the run uses.
    """
    values = config.resolved.flat
    defaults = type(config)().flat | automatic_values(config)
    acting = [name for name in MAGNITUDES if not why_unused(config, name)]
    usual = {name: defaults[name] or 1.0 for name in acting}
    far = [name for name in acting if values[name] > FAR * usual[name]]
    named = far or [name for name in acting if name in RATES]
    return "lower " + " or ".join(f"--{name}={values[name]:g}" for name in named)
