"""Encodes titles and pictures into frozen features, in the order of a data set's items."""

from fedvlr_jax.encoding.features import Features, Settings, encode_pictures, encode_titles
from fedvlr_jax.encoding.hashing import hashed_rows

__all__ = ["Features", "Settings", "encode_pictures", "encode_titles", "hashed_rows"]
