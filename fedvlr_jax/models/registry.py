"""Name -> backbone, for the fields of `ModelConfig`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedvlr_jax import registry
from fedvlr_jax.config import ModelConfig
from fedvlr_jax.models.backbone import Backbone

BACKBONES: Mapping[str, Callable[[ModelConfig], Backbone]] = registry.Factories(registry.BACKBONES)
