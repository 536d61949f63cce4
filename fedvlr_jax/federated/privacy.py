"""What happens to an upload before the server sees the sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.types import PyTree


def clip_factors(norms: jax.Array, clip_norm: float) -> jax.Array:
    """float32 [K]: what each upload is multiplied with so that its L2 norm is <= clip_norm.

    The norm is joint over all leaves of a client's upload. Uploads already inside the
    ball are returned unchanged (factor 1). A clip_norm of 0 switches clipping off.
    """
    if clip_norm == 0:
        return jnp.ones_like(norms)
    return jnp.minimum(1.0, clip_norm / jnp.maximum(norms, 1e-30))


def add_noise(key: jax.Array, mean: PyTree, alpha: jax.Array, deviation: float) -> PyTree:
    """The weighted mean, as if every client had added Gaussian noise to its upload.

    A sum of independent Gaussians is one Gaussian: sum_u alpha_u N(0, s^2) has the law of
    N(0, s^2 sum_u alpha_u^2), which is drawn once instead of once a client.

    Args:
      mean: the aggregated upload, sum_u alpha_u upload_u.
      alpha: float32 [K], the normalised weights (0 for absent clients).
      deviation: s, the standard deviation of a client's noise; 0 returns `mean`.
    """
    if deviation == 0:
        return mean
    leaves, structure = jax.tree.flatten(mean)
    scale = deviation * jnp.sqrt(jnp.sum(jnp.square(alpha)))
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    # Apart from what is around it, or the last bits would differ between device layouts.
    noise, leaves, scale = jax.lax.optimization_barrier((noise, leaves, scale))
    noisy = [leaf + scale * each for leaf, each in zip(leaves, noise, strict=True)]
    return jax.tree.unflatten(structure, noisy)
