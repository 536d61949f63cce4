"""Normalised item features, for cosine similarities."""

from __future__ import annotations

import numpy as np


def centred_unit_rows(rows: np.ndarray) -> np.ndarray:
    """float64 [I, d]: the rows minus their mean, scaled to unit length.

    Embeddings share a large common component that would dominate every cosine. A row equal to the
    mean becomes 0, so its similarity to all items is 0; for example, the mean may replace a missing
    image.
    """
    centred = rows.astype(np.float64)
    centred -= centred.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    at_centre = length <= 1e-5 * length.max()
    return np.where(at_centre, 0.0, centred / np.where(at_centre, 1.0, length))
