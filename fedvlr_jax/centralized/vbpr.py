"""VBPR: Visual Bayesian Personalized Ranking (He & McAuley, AAAI 2016, arXiv 1510.01784)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.centralized.model import (
    CentralizedModel,
    bpr_loss,
    dense,
    frozen_features,
    init_dense,
    squared_norm,
    xavier,
)
from fedvlr_jax.centralized.sampling import Batch
from fedvlr_jax.data.dataset import Dataset


def vbpr(dataset: Dataset, *, width: int = 64) -> CentralizedModel:
    """Matrix factorisation in which half of each item vector is a projection of content (eq. 4).

    score(u, i) = <gamma_u, gamma_i> + <theta_u, E f_i>, f_i all modalities concatenated
    loss = BPR + l2 * squared norm of the vectors of the mini-batch (eq. 7)

    *choice*: no item bias and no visual bias, as in common implementations. E has a bias instead;
    it adds the same number to all scores of a user, so it does not change rankings. The L2 norm is
    that of E f_i, not of E.
    """
    features = frozen_features(dataset, "vbpr")
    feature = jnp.concatenate(list(features.values()), axis=1)

    def init(key: jax.Array):
        users, items, projection = jax.random.split(key, 3)
        return {
            "users": xavier(users, dataset.num_users, 2 * width),
            "items": xavier(items, dataset.num_items, width),
            "projection": init_dense(projection, feature.shape[1], width),
        }

    def embeddings(params, data):
        content = dense(params["projection"], data["feature"])
        return params["users"], jnp.concatenate([params["items"], content], axis=1)

    def loss(params, data, batch: Batch, key):
        users, items = embeddings(params, data)
        rows = users[batch.user], items[batch.positive], items[batch.negative]
        return bpr_loss(*rows) + data["weights"]["l2"] * squared_norm(*rows)

    return CentralizedModel(
        data={"feature": feature},
        weights={"l2": 1e-2},
        grid=("l2", (1e-3, 1e-2, 1e-1)),
        init=init,
        loss=loss,
        embeddings=embeddings,
    )
