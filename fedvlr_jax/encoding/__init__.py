"""Titles and pictures -> frozen features, aligned with the items of a data set."""

from fedvlr_jax.encoding.features import Features, Settings, encode_pictures, encode_titles

__all__ = ["Features", "Settings", "encode_pictures", "encode_titles"]
