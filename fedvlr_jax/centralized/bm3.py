"""BM3: Bootstrap Latent Representations for Multi-modal Recommendation.

Zhou et al., WWW 2023, arXiv 2207.05969.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.centralized.graph import in_cheaper_form, interaction_graph, light_gcn
from fedvlr_jax.centralized.model import (
    CentralizedModel,
    dense,
    dropout,
    frozen_features,
    init_dense,
    squared_norm,
    unit_rows,
    xavier,
)
from fedvlr_jax.centralized.sampling import Batch
from fedvlr_jax.data.dataset import Dataset


def _distance(online: jax.Array, target: jax.Array) -> jax.Array:
    """1 - mean_b cos(online_b, target_b), without a gradient for the target."""
    target = jax.lax.stop_gradient(target)
    return 1 - jnp.mean(jnp.sum(unit_rows(online) * unit_rows(target), axis=1))


def bm3(
    dataset: Dataset, *, width: int = 64, layers: int = 1, dropout_rate: float = 0.3
) -> CentralizedModel:
    """Self-supervision without negatives: each view predicts another view after dropout.

    h_u, h_i = LightGCN(ids), with the id embedding added to h_i again (eqs. 1 to 4);
    h_m = the projected features of modality m (eq. 5); h' = dropout(h), a target without a
    gradient (eq. 6); p(h) = W h + b, one predictor for all (eq. 7). With C(a, b) =
    1 - cos(a, b), over the pairs (u, i) of a mini-batch:

    loss = C(p(h_u), h_i') + C(p(h_i), h_u')                       reconstruction, eqs. 8-10
         + alignment * sum_m C(p(h_m), h_i') + C(p(h_m), h_m')     inter and intra, 11-12
         + l2 * (|h_u|^2 + |h_i|^2) / 2                            eq. 13
    score(u, i) = <p(h_u), p(h_i)>                                 eq. 14

    *choice*: the L2 term is the mean over the mini-batch. The released code divides a norm that is
    not squared by the number of nodes; that term is close to 0, so l2=0 approximates it. `layers`
    and `dropout_rate` are the first values of the paper's grid; `alignment` is 2.
    """

    def init(key: jax.Array):
        users, items, predictor, *projections = jax.random.split(key, 3 + len(features))
        return {
            "users": xavier(users, dataset.num_users, width),
            "items": xavier(items, dataset.num_items, width),
            "predictor": init_dense(predictor, width, width),
            "projections": {
                name: init_dense(k, feature.shape[1], width)
                for (name, feature), k in zip(features.items(), projections, strict=True)
            },
        }

    def graph_views(params, data):
        users, items = light_gcn(data["graph"], params["users"], params["items"], layers)
        return users, items + params["items"]

    def embeddings(params, data):
        users, items = graph_views(params, data)
        return dense(params["predictor"], users), dense(params["predictor"], items)

    def loss(params, data, batch: Batch, key):
        users, items = graph_views(params, data)
        user, item = users[batch.user], items[batch.positive]
        predict = lambda x: dense(params["predictor"], x)
        key_user, key_item, *keys = jax.random.split(key, 2 + len(features))
        # Dropout acts on the rows of the mini-batch, so a node that occurs twice gets two different
        # targets. Dropout on all nodes would give it one target.
        user_target = dropout(key_user, user, dropout_rate)
        item_target = dropout(key_item, item, dropout_rate)
        total = _distance(predict(user), item_target) + _distance(predict(item), user_target)
        aligned = jnp.zeros(())
        for name, k in zip(features, keys, strict=True):
            view = dense(params["projections"][name], data["features"][name])[batch.positive]
            aligned += _distance(predict(view), item_target)
            aligned += _distance(predict(view), dropout(k, view, dropout_rate))
        weights = data["weights"]
        return total + weights["alignment"] * aligned + weights["l2"] * squared_norm(user, item)

    features = frozen_features(dataset, "bm3")
    return CentralizedModel(
        data={
            "graph": in_cheaper_form(interaction_graph(dataset.train)),
            "features": features,
        },
        weights={"alignment": 2.0, "l2": 1e-2},
        grid=("l2", (1e-3, 1e-2, 1e-1)),
        init=init,
        loss=loss,
        embeddings=embeddings,
    )
