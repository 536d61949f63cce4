"""Converts raw files of common forms to the folder that `load_dataset` reads."""

from fedvlr_jax.prepare.options import Options
from fedvlr_jax.prepare.preparing import Prepared, Step, prepare
from fedvlr_jax.prepare.presets import PRESETS, prepare_preset

__all__ = ["PRESETS", "Options", "Prepared", "Step", "prepare", "prepare_preset"]
