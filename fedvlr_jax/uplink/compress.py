"""Smaller uploads."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array
from fedvlr_jax.uplink.noise import Noise
from fedvlr_jax.uplink.slot_uploads import SlotUploads
from fedvlr_jax.uplink.uploads import Upload, Uploads

# Folded into a client's key of the round; its local epochs have the numbers below.
ROUNDING = 1 << 30
# Of the basis, apart from the keys that noise splits off for its leaves: those are 0, 1, 2, ...
BASIS = 1 << 30


def low_rank(rank: int, noise: Noise) -> Noise:
    """CoLR (Nguyen et al. 2024): clients upload A = F B for a basis B that all of them share.

    F [I, G * d] is the gradient of the views and B [G * d, rank] has orthonormal columns, drawn for
    each round. The server computes A B^T. The shared head is sent whole.

    The projection is linear, so the server applies it once, to the sum. Gaussian noise on F, when
    projected, has the law of noise on A. Secure sums are possible. The projection shortens uploads,
    so bounds on their norms still hold.

    Args:
      rank: numbers that are sent for each item; at most G * d.
      noise: added to the sum, before the projection.
    """

    def add(key: jax.Array, upload: Upload, weight: jax.Array, bound: float | jax.Array) -> Upload:
        mean = noise.add(key, upload, weight, bound)
        items, *rest = mean.views.shape
        flat = mean.views.reshape(items, -1)
        basis = shared_basis(jax.random.fold_in(key, BASIS), flat.shape[1], rank)
        return mean._replace(views=((flat @ basis) @ basis.T).reshape(items, *rest))

    return Noise(add)


def shared_basis(key: jax.Array, size: int, rank: int) -> jax.Array:
    """[size, rank]: orthonormal columns of a uniformly drawn subspace."""
    return jnp.linalg.qr(jax.random.normal(key, (size, rank)))[0]


class Compression(NamedTuple):
    """The compression of the views of each upload, after clipping; the head is sent whole.

    Attributes:
      bits: of a number, 2 to 16; 0: float32.
      rows: items whose rows are sent; 0: all.
    """

    bits: int
    rows: int

    def sent(
        self, key: jax.Array, client: Array, uploads: Uploads, residual: jax.Array | None
    ) -> tuple[Uploads, jax.Array | None]:
        """The received uploads, and the residuals after the round.

        With error feedback (Seide et al. 2014; Stich et al. 2018) a client adds its residual to the
        views. The part that it does not send is the next residual: sent + next = views + residual.

        Args:
          key: of the local training of the round. client: int32 [K].
          residual: [K, I, G, d]; None without error feedback.
        """
        whole = uploads.rows()
        views, (clients, items, *_) = whole.views, uploads.shape
        if residual is not None:
            views = views + residual
        out = largest_rows(views, self.rows) if self.rows else views
        if self.bits:
            own = jax.vmap(lambda c: jax.random.fold_in(jax.random.fold_in(key, c), ROUNDING))
            out = jax.vmap(lambda k, x: quantised(k, x, self.bits))(own(client), out)
        place = jnp.broadcast_to(jnp.arange(items, dtype=jnp.int32), (clients, items))
        arrived = SlotUploads(
            item=place,
            rows_of_views=out,
            head=whole.head,
            scale=jnp.ones(clients),
            num_items=items,
            whole=True,
        )
        return arrived, None if residual is None else views - out


def largest_rows(views: jax.Array, count: int) -> jax.Array:
    """views [K, I, G, d] with zeros in all but each client's `count` longest rows."""
    length = jnp.sum(jnp.square(views), axis=(2, 3))
    _, chosen = jax.lax.top_k(length, count)
    kept = jnp.zeros(length.shape, bool).at[jnp.arange(len(length))[:, None], chosen].set(True)
    return jnp.where(kept[:, :, None, None], views, 0.0)


def quantised(key: jax.Array, views: jax.Array, bits: int) -> jax.Array:
    """QSGD (Alistarh et al. 2017) of ONE client's views [I, G, d], with a scale for each row.

    A row is its largest absolute value times whole numbers of -s to s over s = 2^(bits - 1) - 1. A
    number is rounded up or down at random, so that its expectation is itself.
    """
    levels = 2.0 ** (bits - 1) - 1
    scale = jnp.max(jnp.abs(views), axis=(1, 2), keepdims=True)
    exact = levels * jnp.abs(views) / jnp.where(scale > 0, scale, 1.0)
    whole = jnp.floor(exact + jax.random.uniform(key, views.shape, views.dtype))
    return jnp.sign(views) * jnp.minimum(whole, levels) * (scale / levels)
