"""Spectral clustering of the clients of a round, in one compiled program.

The published method calls a library; this one has fixed shapes, so it is part of the round. It is
the method of `sklearn.cluster.SpectralClustering(affinity="rbf")`: eigenvectors of the normalised
affinity, divided by the square roots of the degrees, then k-means. The time grows with the cube of
the number of clients of a round.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.reduce.gram import squared_distances

LLOYD_STEPS = 30
RESTARTS = 8


def spectral_groups(
    rows: jax.Array, responded: jax.Array, num_groups: int, key: jax.Array
) -> jax.Array:
    """int32 [K]: the group of each client; any number where a client did not respond.

    Args:
      rows: the features of the clients [K, F]; only those of clients that responded are read.
      responded: bool [K].
      key: of the starts of k-means.
    """
    points = spectral_embedding(standardised(rows, responded), responded, num_groups)
    return k_means(points, responded, num_groups, key)


def standardised(rows: jax.Array, responded: jax.Array) -> jax.Array:
    """The rows [K, F] with mean 0 and standard deviation 1 in each column.

    Mean and deviation are over the clients that responded. A constant column becomes 0, and so does
    the row of a client that did not respond.
    """
    mask = responded.astype(rows.dtype)[:, None]
    count = jnp.maximum(jnp.sum(mask), 1.0)
    rows = jnp.where(mask > 0, rows, 0.0)
    centred = mask * (rows - jnp.sum(rows, axis=0, keepdims=True) / count)
    deviation = jnp.sqrt(jnp.sum(jnp.square(centred), axis=0, keepdims=True) / count)
    return jnp.where(deviation > 0, centred / jnp.where(deviation > 0, deviation, 1.0), 0.0)


def spectral_embedding(rows: jax.Array, responded: jax.Array, size: int) -> jax.Array:
    """[K, size]: the leading eigenvectors of D^(-1/2) W D^(-1/2), divided by the roots of D.

    W_uv = exp(-|x_u - x_v|^2 / (2 m^2)) for u != v, where m is the median distance of two
    clients, and D has the row sums of W.
    """
    clients = rows.shape[0]
    pair = responded[:, None] & responded[None, :] & ~jnp.eye(clients, dtype=bool)
    square = squared_distances(rows @ rows.T)
    median = jnp.nanmedian(jnp.where(pair, jnp.sqrt(square), jnp.nan))
    scale = jnp.where(median > 0, 2 * jnp.square(median), 1.0)
    affinity = jnp.where(pair, jnp.exp(-square / scale), 0.0)
    degree = jnp.sum(affinity, axis=1)
    root = jnp.sqrt(jnp.where(degree > 0, degree, 1.0))
    normalised = affinity / (root[:, None] * root[None, :])
    # No eigenvalue is below -1: the vectors of absent clients are never among the leading ones.
    absent = jnp.diag(jnp.where(responded, 0.0, -2.0).astype(rows.dtype))
    _, vectors = jnp.linalg.eigh(normalised + absent)
    return vectors[:, ::-1][:, :size] / root[:, None]


def k_means(points: jax.Array, responded: jax.Array, num_groups: int, key: jax.Array) -> jax.Array:
    """int32 [K]: the groups of the best of RESTARTS runs of LLOYD_STEPS steps.

    A run starts with k-means++ (Arthur and Vassilvitskii 2007). A group that loses all its points
    keeps its centre.
    """
    one = functools.partial(_one_run, points, responded, num_groups)
    groups, spread = jax.vmap(one)(jax.random.split(key, RESTARTS))
    return groups[jnp.argmin(spread)]


def _to_centres(points: jax.Array, centres: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(points[:, None, :] - centres[None, :, :]), axis=-1)


def _one_run(
    points: jax.Array, responded: jax.Array, num_groups: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(the groups [K], the sum of the squared distances to the centres [])."""
    mask = responded.astype(points.dtype)

    def plus_plus(number: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        centres, nearest = carry
        chance = jnp.where(responded, jnp.log(nearest + 1e-30), -jnp.inf)
        chosen = points[jax.random.categorical(jax.random.fold_in(key, number), chance)]
        distance = jnp.sum(jnp.square(points - chosen[None, :]), axis=1)
        return centres.at[number].set(chosen), jnp.minimum(nearest, distance)

    centres = jnp.zeros((num_groups, points.shape[1]), points.dtype)
    # The first centre is drawn uniformly.
    far = jnp.full(len(points), 1e30, points.dtype)
    centres, _ = jax.lax.fori_loop(0, num_groups, plus_plus, (centres, far))

    def lloyd(_: jax.Array, centres: jax.Array) -> jax.Array:
        group = jnp.argmin(_to_centres(points, centres), axis=1)
        member = group[None, :] == jnp.arange(num_groups)[:, None]
        member = jnp.where(member, mask[None, :], 0.0)
        count = jnp.sum(member, axis=1, keepdims=True)
        return jnp.where(count > 0, member @ points / jnp.maximum(count, 1.0), centres)

    centres = jax.lax.fori_loop(0, LLOYD_STEPS, lloyd, centres)
    distance = _to_centres(points, centres)
    group = jnp.argmin(distance, axis=1).astype(jnp.int32)
    return group, jnp.sum(mask * jnp.min(distance, axis=1))


def renumbered(group: jax.Array, before: jax.Array, responded: jax.Array, count: int) -> jax.Array:
    """The groups [K] with the numbers of earlier groups that share the most clients with them.

    The pair of a new and an earlier group with the largest overlap is matched first, then the next
    one among the rest. Ties go to the lowest numbers.

    Args:
      group: int32 [K]. before: int32 [K], the earlier groups; -1 for none. responded: bool [K].
    """
    new = (group[:, None] == jnp.arange(count)[None, :]) & responded[:, None]
    old = before[:, None] == jnp.arange(count)[None, :]
    overlap = new.astype(jnp.int32).T @ old.astype(jnp.int32)

    def match(_: jax.Array, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        overlap, number = carry
        best = jnp.argmax(overlap)
        row, column = best // count, best % count
        overlap = overlap.at[row, :].set(-1).at[:, column].set(-1)
        return overlap, number.at[row].set(column.astype(jnp.int32))

    start = overlap, jnp.zeros(count, jnp.int32)
    _, number = jax.lax.fori_loop(0, count, match, start)
    return number[group]
