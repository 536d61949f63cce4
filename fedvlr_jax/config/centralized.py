"""Options of the centralized models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from fedvlr_jax.config.fields import check_choice
from fedvlr_jax.errors import InputError

CENTRALIZED_NAMES = ("vbpr", "bm3", "mgcn", "pgl", "sasrec")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CentralizedConfig:
    """Choice of a centralized model and of its training.

    Attributes:
      model: one of `CENTRALIZED_NAMES`.
      width: the latent width d.
      batch_size: the maximum number of rows of a step.
      epochs: the maximum number of epochs.
      learning_rate: the learning rate of Adam.
      weights: factors in the loss that replace the model's defaults.
    """

    model: str = "vbpr"
    width: int = 64
    batch_size: int = 2048
    epochs: int = 500
    learning_rate: float = 1e-3
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("model", self.model, CENTRALIZED_NAMES)
        for name in ("width", "batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name}={getattr(self, name)}: give at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"--learning_rate={self.learning_rate}: give a number above 0")
