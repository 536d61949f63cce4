"""An attack, and what hostile clients can see.

The hostile clients are the last of the population. The server samples them like any other. They
train on a history of their own, and keep private rows of their own. In each round the hostile
clients that respond share their trained uploads and the broadcast, and replace their uploads. Their
memory from round to round is `ServerState.attack`, because checkpoints hold that state. The server
does not read it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array, PyTree
from fedvlr_jax.uplink.altered_uploads import AlteredUploads
from fedvlr_jax.uplink.uploads import Upload, Uploads


class Seen(NamedTuple):
    """The knowledge of the hostile clients of one cohort.

    Attributes:
      views: [I, G, d], as broadcast. round: int32 [].
      uploads: of the whole cohort. An attack may read those of `hostile` clients alone.
      hostile: bool [K], the clients that are hostile and responded.
      key: of the attack in this round.
    """

    views: jax.Array
    round: jax.Array
    uploads: Uploads
    hostile: Array
    key: jax.Array

    @property
    def weight(self) -> jax.Array:
        """[K]: 1 / m for each of the m hostile clients, else 0."""
        weight = jnp.asarray(self.hostile, self.views.dtype)
        return weight / jnp.maximum(jnp.sum(weight), 1.0)

    def own_norm(self) -> jax.Array:
        """[]: the mean L2 norm of the uploads that the hostile clients trained."""
        return jnp.sum(self.weight * self.uploads.norms())

    def own_mean(self) -> Upload:
        """The mean of the uploads that the hostile clients trained."""
        return self.uploads.total(self.weight)


class Forged(NamedTuple):
    """The uploads of the hostile clients: keep times the trained one, plus one common upload.

    Attributes:
      keep: []. common: an `Upload`, or None for nothing.
    """

    keep: float | jax.Array
    common: Upload | None


class Attack(NamedTuple):
    """A way to forge uploads.

    Attributes:
      init: views' shape (I, G, d) -> the memory before the first round, a pytree of arrays.
      forge: (seen, memory) -> (`Forged`, memory after the round).
      first: the first hostile client; all from it on are hostile.
    """

    init: Callable[[tuple[int, ...]], PyTree]
    forge: Callable[[Seen, PyTree], tuple[Forged, PyTree]]
    first: int

    def hostile(self, client: Array, responded: Array) -> Array:
        """bool [K]: `Seen.hostile` of the clients int32 [K], of which bool [K] responded."""
        return responded & (client >= self.first)

    def replace(self, seen: Seen, memory: PyTree) -> tuple[Uploads, PyTree]:
        """The cohort's uploads after the attack, and the memory.

        Uploads of honest clients keep their values. Without a hostile client in the cohort the
        memory stays as it is.
        """
        uploads, hostile, kind = seen.uploads, seen.hostile, seen.views.dtype
        (keep, common), after = self.forge(seen, memory)
        any_hostile = jnp.any(hostile)
        memory = jax.tree.map(lambda new, old: jnp.where(any_hostile, new, old), after, memory)
        if common is None:
            return uploads.scaled(jnp.where(hostile, keep, 1.0)), memory
        # Without a hostile client the forged upload may be NaN.
        clean = lambda leaf: jnp.where(any_hostile, leaf, jnp.zeros_like(leaf))
        return AlteredUploads(
            honest=uploads,
            keep=jnp.where(hostile, keep, 1.0),
            forged=jax.tree.map(clean, common),
            share=jnp.asarray(hostile, kind),
            scale=jnp.ones(hostile.shape, kind),
        ), memory


def no_memory(shape: tuple[int, ...]) -> PyTree:
    """The `init` of an attack that remembers nothing."""
    return ()


def scaled_to(upload: Upload, norm: jax.Array) -> Upload:
    """`upload` scaled to the joint L2 norm `norm`; zeros stay zeros."""
    square = sum((jnp.sum(jnp.square(x)) for x in jax.tree.leaves(upload)), jnp.zeros(()))
    factor = norm / jnp.maximum(jnp.sqrt(square), 1e-30)
    return jax.tree.map(lambda x: factor * x, upload)


def at_rows(shape: tuple[int, ...], rows: jax.Array, values: jax.Array) -> jax.Array:
    """[I, G, d]: `values` [R, G * d] at the items `rows` int32 [R], each once; else 0."""
    _, views, width = shape
    return jnp.zeros(shape, values.dtype).at[rows].set(values.reshape(-1, views, width))


def forged(seen: Seen, views: jax.Array, strength: float) -> Forged:
    """All hostile clients send one upload of `views` [I, G, d], scaled to the length of `strength`
    honest uploads. The shared head gets zeros."""
    head = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), seen.uploads.head)
    return Forged(0.0, scaled_to(Upload(views, head), strength * seen.own_norm()))
