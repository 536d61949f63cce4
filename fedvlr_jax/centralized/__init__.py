"""Centralized recommenders, for comparison: their accuracy shows the loss due to federation."""

from fedvlr_jax.centralized.registry import CENTRALIZED
from fedvlr_jax.centralized.trainer import (
    LEARNING_RATES,
    CentralizedResult,
    Trainer,
    make_centralized,
)
from fedvlr_jax.config.centralized import CentralizedConfig

__all__ = [
    "CENTRALIZED",
    "LEARNING_RATES",
    "CentralizedConfig",
    "CentralizedResult",
    "Trainer",
    "make_centralized",
]
