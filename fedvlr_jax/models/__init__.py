"""The five backbones: their shared and private parameters, and their score."""

from fedvlr_jax.models.backbone import Backbone, Embedding, Linear, Penalty
from fedvlr_jax.models.registry import BACKBONES

__all__ = ["BACKBONES", "Backbone", "Embedding", "Linear", "Penalty"]
