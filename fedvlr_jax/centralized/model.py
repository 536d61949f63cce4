"""The interface of a centralized model, and functions that several models share.

Letters used in shapes: N users, I items, M modalities, F feature width, d latent width,
B rows of a mini-batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.centralized.sampling import Batches, pair_batches
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.types import PyTree


def _unchanged(data: PyTree, key: jax.Array) -> PyTree:
    return data


@dataclasses.dataclass(frozen=True, kw_only=True)
class CentralizedModel:
    """A model whose score of user u and item i is the inner product of two vectors.

    All functions are pure. They take all large arrays as arguments: a compiled program would
    store an array of its closure as a constant.

    Attributes:
      data: the arrays that the functions read: graphs, features.
      weights: name -> default of each tunable number in the loss. The functions read them from
        data["weights"] as float32 [].
      grid: the name of one weight, and the values that tuning tries for it.
      init: key -> parameters.
      prepare: (data, key) -> the data for the losses of one epoch.
      loss: (parameters, data, batch, key) -> float32 [].
      embeddings: (parameters, data) -> (users [N, w], items [I, w]), for inference.
      batches: (train, negative pool, batch size) -> the mini-batches of an epoch.
      limits: name -> a value that the weight must be below; it is then at least 0.
    """

    data: dict[str, Any]
    weights: Mapping[str, float]
    grid: tuple[str, tuple[float, ...]]
    init: Callable[[jax.Array], PyTree]
    loss: Callable[[PyTree, PyTree, Any, jax.Array], jax.Array]
    embeddings: Callable[[PyTree, PyTree], tuple[jax.Array, jax.Array]]
    prepare: Callable[[PyTree, jax.Array], PyTree] = _unchanged
    batches: Callable[[Interactions, str, int], Batches] = pair_batches
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)


def frozen_features(dataset: Dataset, model: str) -> dict[str, jax.Array]:
    """The item features, float32 [I, F_m] by modality.

    Raises:
      InputError: the data set has no features, or a feature is not finite.
    """
    if not dataset.features:
        raise InputError(f"--model={model}: needs item features; {dataset.name} has none")
    for name, feature in dataset.features.items():
        if not np.isfinite(feature).all():
            item = int(np.argmin(np.isfinite(feature).all(axis=1)))
            raise InputError(f"{dataset.name}: {name} feature of item {item} is not finite")
    return {name: jnp.asarray(x, jnp.float32) for name, x in sorted(dataset.features.items())}


def xavier(key: jax.Array, rows: int, columns: int) -> jax.Array:
    """float32 [rows, columns], uniform with variance 2 / (rows + columns) (Glorot 2010)."""
    return jax.nn.initializers.glorot_uniform()(key, (rows, columns), jnp.float32)


def init_dense(key: jax.Array, inputs: int, outputs: int) -> PyTree:
    """Parameters of `dense`: a `xavier` kernel and a zero bias."""
    return {"kernel": xavier(key, inputs, outputs), "bias": jnp.zeros(outputs)}


def dense(params: PyTree, x: jax.Array) -> jax.Array:
    """x W + b: [..., inputs] -> [..., outputs]."""
    return x @ params["kernel"] + params["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def unit_rows(x: jax.Array) -> jax.Array:
    """x with rows of norm 1. The result and the gradient are 0 for a zero row."""
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


def dropout(key: jax.Array, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Sets entries to zero with probability `rate` and scales the others by 1 / (1 - rate)."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)


def bpr_loss(user: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    """-mean_b ln sigmoid(<u_b, p_b> - <u_b, n_b>) (Rendle et al. 2009), over rows [B, w]."""
    margin = jnp.sum(user * (positive - negative), axis=1)
    return jnp.mean(jax.nn.softplus(-margin))


def squared_norm(*rows: jax.Array) -> jax.Array:
    """Half the squared L2 norm of arrays [B, w], summed over them, mean over b."""
    total = jnp.zeros(())
    for array in rows:
        total += 0.5 * jnp.mean(jnp.sum(jnp.square(array), axis=1))
    return total


def info_nce(first: jax.Array, second: jax.Array, rows: jax.Array, temperature: float) -> jax.Array:
    """-mean_b ln (exp(cos(x_b, y_b) / t) / sum_c exp(cos(x_b, y_c) / t)), x_b = first[rows[b]].

    The negatives of a row are the other rows of the mini-batch. If a user or an item occurs twice,
    one occurrence is a negative of the other, as in the losses of the papers.

    Args:
      first, second: [S, w], two views of the same users or items.
      rows: int32 [B], the users or items of the mini-batch.
      temperature: t.
    """
    if len(first) >= len(rows):
        logits = unit_rows(first[rows]) @ unit_rows(second[rows]).T / temperature
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits))
    # The same value from S x S cosines; the factor `count` accounts for equal rows.
    count = jnp.zeros(len(first)).at[rows].add(1.0)
    logits = unit_rows(first) @ unit_rows(second).T / temperature
    loss = jax.nn.logsumexp(logits, axis=1, b=count[None, :]) - jnp.diagonal(logits)
    return jnp.sum(loss * count) / len(rows)
