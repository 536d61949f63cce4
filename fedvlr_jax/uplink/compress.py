"""Smaller uploads."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.uplink.noise import Noise
from fedvlr_jax.uplink.uploads import Upload


def low_rank(rank: int, noise: Noise) -> Noise:
    """CoLR (Nguyen et al. 2024): clients upload A = F B for a basis B that all of them share.

    F [I, G * d] is the gradient of the views and B [G * d, rank] has orthonormal columns, drawn
    anew in each round. The server makes A B^T. The shared head is sent whole.

    A sum of projections is the projection of the sum, so it is applied once, to the sum. The
    same holds for noise: Gaussian noise on F, projected, has the law of noise on A. It also goes
    with secure sums. It shortens uploads, so bounds on their norms still hold.

    Args:
      rank: numbers that are sent for each item; at most G * d.
      noise: what is added to the sum, before the projection.
    """

    def add(key: jax.Array, upload: Upload, weight: jax.Array, bound: float | jax.Array) -> Upload:
        mean = noise.add(key, upload, weight, bound)
        items, *rest = mean.views.shape
        flat = mean.views.reshape(items, -1)
        basis = shared_basis(jax.random.fold_in(key, 1), flat.shape[1], rank)
        return mean._replace(views=((flat @ basis) @ basis.T).reshape(items, *rest))

    return Noise(add)


def shared_basis(key: jax.Array, size: int, rank: int) -> jax.Array:
    """[size, rank]: orthonormal columns of a uniformly drawn subspace."""
    return jnp.linalg.qr(jax.random.normal(key, (size, rank)))[0]
