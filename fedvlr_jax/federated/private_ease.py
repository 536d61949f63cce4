"""The closed form of --init=ease under central privacy: one noisy matrix of co-occurrences.

`ease.py` describes the method without noise. Here client u, with the row x_u of zeros and ones and
a history of n_u items, contributes once

    A_u = x_u x_u^T / n_u,    [I, I],

of Frobenius norm 1, so every client counts as much as it may. The server adds symmetric Gaussian
noise to the sum of the contributions, of deviation z on the diagonal and z / sqrt(2) off it. With M
the noisy sum, the table and the vectors are those of `ease.py` on M, with the terms below.

Guarantees:
- Adding or removing one client moves the sum by a Frobenius norm of exactly 1, or by 0 if its
  history is empty.
- A symmetric matrix is a vector of I (I + 1) / 2 numbers: its diagonal, and sqrt(2) times the entry
  of each pair. The length of this vector is the Frobenius norm, which counts each pair twice. On
  each of its numbers the noise is independent, of deviation z. So the release is one Gaussian
  mechanism of noise multiplier z.
- All else follows from M and from numbers that do not depend on one client's data: the features,
  the numbers of items and of clients, and z. Each client computes its vector and the scale of its
  vector alone. No item counts, no iALS and no validation item enters.

*choice*: the spectral norm of the noise is about e = z sqrt(2 I) (Wigner's semicircle), and the
mean diagonal of the sum is about m = N / I. The ridge is

    l = ridge m + 4 e (1 + e / (50 m)),

and the table is that of M + l p p^T + c F F^T. The popularity p, of length 1, is the diagonal of M
minus z sqrt(2 log I), at least 0, so that noise alone is no popularity. c gives the term of the
features a mean eigenvalue of 1.5 l, weighted by the eigenvalues. So where the noise is much
stronger than the histories, the scores become those of popularity and the features. The constants
were selected on synthetic data, of other seeds than those in docs/privacy.md, and on the validation
part of KU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg, sparse

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.features import centred_unit_rows
from fedvlr_jax.federated.ease import Autoencoder
from fedvlr_jax.federated.ease_settings import Ease, Wanted
from fedvlr_jax.federated.private_initialization import noise_generator

# The constants of the module's docstring.
RIDGE_OF_NOISE, STRONG_NOISE, CONTENT_OF_RIDGE = 4.0, 50.0, 1.5
# Arrays [I, I] of the host that exist at once.
SQUARES = 4


def noisy_gram(
    histories: sparse.csr_array, multiplier: float, draws: np.random.Generator
) -> np.ndarray:
    """float64 [I, I], symmetric: the sum of all contributions and the noise.

    Args:
      histories: [N, I], sparse rows of zeros and ones.
      multiplier: z of the module's docstring.
    """
    lengths = np.sqrt(np.maximum(np.asarray(histories.sum(axis=1)).ravel(), 1.0))
    rows = (histories * (1 / lengths)[:, None]).tocsr()
    gram: np.ndarray = (rows.T @ rows).toarray()
    for item in range(len(gram)):
        noise = multiplier * draws.standard_normal(len(gram) - item)
        gram[item, item] += noise[0]
        gram[item, item + 1 :] += noise[1:] / np.sqrt(2)
        gram[item + 1 :, item] = gram[item, item + 1 :]
    return gram


def noise_norm(num_items: int, multiplier: float) -> float:
    """The expected spectral norm of the noise of `noisy_gram`, for many items."""
    return multiplier * np.sqrt(2 * num_items)


def private_autoencoder(
    gram: np.ndarray,
    features: Sequence[np.ndarray],
    width: int,
    wanted: Wanted,
    *,
    num_users: int,
    multiplier: float,
) -> tuple[Autoencoder, float]:
    """The autoencoder of a noisy Gram matrix, and the content weight c over the mean diagonal.

    It uses nothing about the clients but `gram` and their number.

    Args:
      gram: float64 [I, I] of `noisy_gram`; overwritten.
      features: float64 [I, d_m] of each modality, centred, at unit length or 0.
      width: columns of the result; those beyond the number of items are 0.
      wanted: its ridge is relative to the mean diagonal num_users / I. Its content is c, relative
        to the same; None to derive c from the ridge. The other settings do not count.
    """
    num_items, content = len(gram), wanted.content
    mean = num_users / num_items
    noise = noise_norm(num_items, multiplier)
    strength = wanted.ridge * mean + RIDGE_OF_NOISE * noise * (1 + noise / (STRONG_NOISE * mean))
    described = np.hstack([np.zeros((num_items, 0)), *features])
    if not described.any():
        content = 0.0
    elif content is None:
        inner = described.T @ described
        content = CONTENT_OF_RIDGE * strength * np.trace(inner) / np.sum(np.square(inner)) / mean
    popular = np.maximum(np.diag(gram) - multiplier * np.sqrt(2 * np.log(num_items)), 0.0)
    popular /= np.linalg.norm(popular) or 1.0
    gram += strength * np.outer(popular, popular)
    gram += content * mean * (described @ described.T)
    kept = min(width, num_items)
    found = linalg.eigh(gram, subset_by_index=(num_items - kept, num_items - 1), overwrite_a=True)
    missing = width - kept
    ones = np.ones((num_items, 1))
    model = Autoencoder(
        directions=np.pad(found[1][:, ::-1], ((0, 0), (0, missing))),
        eigenvalues=np.pad(np.maximum(found[0][::-1], 0.0), (0, missing)),
        ridge=strength,
        root=ones,
        popular=ones,
    )
    return model, float(content)


def private_ease_initialization(
    dataset: Dataset,
    width: int,
    wanted: Wanted,
    *,
    multiplier: float,
    seed: int,
) -> Ease:
    """The items' table and the clients' vectors; equal for equal seeds.

    Args:
      wanted: see `private_autoencoder`. With its recency each client weights the items of its
        vector by their age, as `ease.py` does; None: it does not.
      multiplier: z of the module's docstring.
    """
    train = dataset.train
    gram = noisy_gram(train.matrix.astype(np.float64), multiplier, noise_generator(seed))
    model, content = private_autoencoder(
        gram,
        [centred_unit_rows(rows) for rows in dataset.features.values()],
        width,
        wanted,
        num_users=train.num_users,
        multiplier=multiplier,
    )
    recency = wanted.recency or 0.0
    history = train.weighted_by_recency(recency) if recency else train
    vectors = model.vectors(history.weighted_matrix)
    return Ease(model.items, vectors, content, 0.0, recency, None, 0.0)
