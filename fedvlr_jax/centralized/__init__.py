"""Centralized multimodal recommenders: what a federation gives up is seen beside them."""

from fedvlr_jax.centralized.registry import CENTRALIZED
from fedvlr_jax.centralized.trainer import (
    LEARNING_RATES,
    CentralizedConfig,
    CentralizedResult,
    Trainer,
    make_centralized,
)

__all__ = [
    "CENTRALIZED",
    "LEARNING_RATES",
    "CentralizedConfig",
    "CentralizedResult",
    "Trainer",
    "make_centralized",
]
