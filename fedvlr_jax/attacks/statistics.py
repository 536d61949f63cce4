"""Attacks without a target: they forge uploads from those that the hostile clients trained."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from fedvlr_jax.attacks.attack import Attack, Forged, Seen, forged, no_memory
from fedvlr_jax.types import PyTree
from fedvlr_jax.uplink.uploads import Upload


def scaled(factor: float, first: int) -> Attack:
    """Each hostile client sends `factor` times the upload that it trained."""
    forge = lambda seen, memory: (Forged(factor, None), memory)
    return Attack(no_memory, forge, first)


def honest(first: int) -> Attack:
    """The clients send what they trained; `population.histories` can make it hostile."""
    return scaled(1.0, first)


def sign_flip(strength: float, first: int) -> Attack:
    """-strength times the trained upload."""
    return scaled(-strength, first)


def scaling(strength: float, first: int) -> Attack:
    """10 strength times the upload that was trained on a history with the targets (Bagdasaryan et
    al. 2020)."""
    return scaled(10 * strength, first)


def not_a_number(first: int) -> Attack:
    """Uploads that are not finite."""
    return scaled(math.nan, first)


def own_moments(seen: Seen) -> tuple[Upload, Upload]:
    """Coordinate-wise mean and standard deviation of the uploads that hostile clients trained."""
    mean = seen.own_mean()
    second = seen.uploads.coordinatewise(lambda values: seen.weight @ jnp.square(values))
    deviation = lambda square, m: jnp.sqrt(jnp.maximum(square - jnp.square(m), 0.0))
    return mean, jax.tree.map(deviation, second, mean)


def alie(first: int, clients: int) -> Attack:
    """A little is enough (Baruch et al. 2019): mean - z deviations, coordinate by coordinate.

    z is the largest number of deviations that s more honest clients exceed, s = n // 2 + 1 - m,
    for n expected clients of whom m are hostile. Mean and deviation are those of the hostile
    clients' own training, as the published attack estimates them. It is at most 3.

    Args:
      clients: the size of the population, hostile clients included.
    """
    hostile = clients - first
    others = max(clients - hostile, 1)
    supporters = max(clients // 2 + 1 - hostile, 0)
    z = float(jnp.clip(ndtri((others - supporters) / others), 0.3, 3.0))

    def forge(seen: Seen, memory: PyTree) -> tuple[Forged, PyTree]:
        mean, deviation = own_moments(seen)
        common = jax.tree.map(lambda m, d: m - z * d, mean, deviation)
        return Forged(0.0, common), memory

    return Attack(no_memory, forge, first)


def ipm(strength: float, first: int) -> Attack:
    """Inner product manipulation (Xie et al. 2020): -strength times the mean."""

    def forge(seen: Seen, memory: PyTree) -> tuple[Forged, PyTree]:
        return Forged(0.0, jax.tree.map(lambda m: -strength * m, seen.own_mean())), memory

    return Attack(no_memory, forge, first)


def ua_fedrec(strength: float, first: int) -> Attack:
    """UA-FedRec (Yi et al. 2023), the part on item vectors: mean - strength sign(mean)
    deviation."""

    def forge(seen: Seen, memory: PyTree) -> tuple[Forged, PyTree]:
        mean, deviation = own_moments(seen)
        common = jax.tree.map(lambda m, d: m - strength * jnp.sign(m) * d, mean, deviation)
        return Forged(0.0, common), memory

    return Attack(no_memory, forge, first)


def spattack(strength: float, first: int, rows: int = 200) -> Attack:
    """Spattack (Chen et al. 2024): the negative mean on the `rows` items with the shortest mean
    rows, and zeros elsewhere, as long as `strength` honest uploads.

    Few honest clients move those rows, so the hostile ones are a large share of those that do.
    """

    def forge(seen: Seen, memory: PyTree) -> tuple[Forged, PyTree]:
        mean = seen.own_mean()
        items = mean.views.shape[0]
        length = jnp.sum(jnp.square(mean.views.reshape(items, -1)), axis=1)
        _, chosen = jax.lax.top_k(-length, min(rows, items))
        mask = jnp.zeros(items, mean.views.dtype).at[chosen].set(-1.0)
        return forged(seen, mask[:, None, None] * mean.views, strength), memory

    return Attack(no_memory, forge, first)


def cluster(strength: float, first: int, clusters: int = 20) -> Attack:
    """ClusterAttack (Yu et al. 2023): makes the items of each cluster equal.

    The upload is the gradient of the sum of squared distances of the item vectors to the centre of
    their cluster, which destroys the ranking within a cluster. It is as long as `strength` honest
    uploads. *choice*: the centres are found from drawn items by five steps of k-means in each
    round; the published attack adapts their number.
    """

    def forge(seen: Seen, memory: PyTree) -> tuple[Forged, PyTree]:
        items = seen.views.shape[0]
        vectors = seen.views.reshape(items, -1)
        centres = vectors[
            jax.random.permutation(seen.key, items)[: min(clusters, max(1, items // 10))]
        ]
        for _ in range(5):
            member = nearest(vectors, centres)
            size = jnp.maximum(jnp.sum(member, axis=0), 1.0)
            centres = (member.T @ vectors) / size[:, None]
        away = vectors - nearest(vectors, centres) @ centres
        return forged(seen, away.reshape(seen.views.shape), strength), memory

    return Attack(no_memory, forge, first)


def nearest(vectors: jax.Array, centres: jax.Array) -> jax.Array:
    """[I, C]: 1 at the nearest of `centres` [C, D] to each of `vectors` [I, D]."""
    distance = jnp.sum(jnp.square(centres), axis=1)[None, :] - 2 * vectors @ centres.T
    return jax.nn.one_hot(jnp.argmin(distance, axis=1), len(centres), dtype=vectors.dtype)
