"""Data sets: loaders from disk, the synthetic generator, and the splits of both."""

from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.loading import load_dataset

__all__ = ["Dataset", "Interactions", "load_dataset"]
