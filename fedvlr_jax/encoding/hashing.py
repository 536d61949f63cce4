"""A text baseline without a model: hashed word n-grams, TF-IDF weights, truncated SVD.

Similar rows mean shared words only; a sentence encoder is better. The baseline needs no extra and
gives equal bits on every call.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import sparse

BUCKETS = 1 << 18
_OVERSAMPLING = 10
_ITERATIONS = 8
_SMALLEST_VALUE = 1e-6
# A word is a run of letters and digits. In scripts without spaces, every character is a word.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words of a title in lower case."""
    return _WORDS.findall(text.lower())


def _grams(text: str) -> Counter[int]:
    """Bucket -> count, over single words and pairs of adjacent words."""
    found = words(text)
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(found)]
    return Counter(zlib.crc32(gram.encode()) % BUCKETS for gram in (*found, *pairs))


def hashed_rows(texts: Sequence[str], width: int) -> np.ndarray:
    """float32 [n, width], rows of unit length; 0 for a text without words.

    The weight of a gram that occurs c times in the text and in d of n texts is
    (1 + log c) (log((1 + n) / (1 + d)) + 1). Rows are scaled to unit length, projected on the first
    singular vectors, and scaled again. The result is narrower than `width` if the rank is.
    """
    counts = [_grams(text) for text in texts]
    buckets = sorted({bucket for row in counts for bucket in row})
    place = {bucket: i for i, bucket in enumerate(buckets)}
    row = np.repeat(np.arange(len(texts)), [len(c) for c in counts])
    column = np.array([place[b] for c in counts for b in sorted(c)], np.int64)
    count = np.array([c[b] for c in counts for b in sorted(c)], float)
    shape = (len(texts), max(1, len(buckets)))
    texts_with = np.bincount(column, minlength=shape[1])
    rarity = np.log((1 + len(texts)) / (1 + texts_with)) + 1
    values = (1 + np.log(count)) * rarity[column]
    matrix = sparse.csr_array((values, (row, column)), shape=shape)
    return _project(_unit(matrix), width)


def _unit(matrix: sparse.csr_array) -> sparse.csr_array:
    length = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return sparse.csr_array(sparse.diags_array(scale) @ matrix)


def _project(matrix: sparse.csr_array, width: int) -> np.ndarray:
    """The rows projected on the first singular vectors and scaled to unit length.

    Subspace iteration from a fixed start (Halko et al. 2011, section 4.5). Equal matrices give
    equal bits; ARPACK does not guarantee this for a small rank. Vectors with a singular value near
    0 are left out, and the sign of each vector is fixed.
    """
    size = min(width + _OVERSAMPLING, *matrix.shape)
    left = matrix @ np.random.default_rng(0).standard_normal((matrix.shape[1], size))
    for _ in range(_ITERATIONS):
        left = matrix @ (matrix.T @ _orthonormal(left))
    basis = _orthonormal(left)
    projected = matrix.T @ basis
    squares, mixed = np.linalg.eigh(projected.T @ projected)
    values = np.sqrt(np.maximum(squares[::-1], 0))
    rank = min(width, max(1, int((values > _SMALLEST_VALUE * values[0]).sum())))
    rows = (basis @ mixed[:, ::-1][:, :rank]) * values[:rank]
    rows *= np.sign(rows[np.abs(rows).argmax(axis=0), np.arange(rank)])
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > _SMALLEST_VALUE)
    return (rows * scale).astype(np.float32)


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the span of the columns, from their Gram matrix.

    Directions with a singular value near 0 are left out.
    """
    squares, mixed = np.linalg.eigh(columns.T @ columns)
    kept = squares > _SMALLEST_VALUE**2 * squares[-1]
    if not kept.any():
        return columns
    return columns @ (mixed[:, kept] / np.sqrt(squares[kept]))
