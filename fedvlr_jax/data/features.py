"""What item features are compared by."""

from __future__ import annotations

import numpy as np


def centred_unit_rows(rows: np.ndarray) -> np.ndarray:
    """float64 [I, d]: the rows about their mean, at unit length.

    Embeddings share a large common part, which otherwise decides a cosine. A row at the centre,
    as where a missing image was replaced by the mean, is 0: it is like nothing.
    """
    centred = rows.astype(np.float64)
    centred -= centred.mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    at_centre = length <= 1e-5 * length.max()
    return np.where(at_centre, 0.0, centred / np.where(at_centre, 1.0, length))
