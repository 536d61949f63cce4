"""MGCN: Multi-View Graph Convolutional Network for Multimedia Recommendation.

Yu et al., ACM Multimedia 2023, arXiv 2308.03588.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from fedvlr_jax.centralized.graph import (
    in_cheaper_form,
    interaction_graph,
    light_gcn,
    propagate,
    similarity_graph,
)
from fedvlr_jax.centralized.model import (
    CentralizedModel,
    bpr_loss,
    dense,
    frozen_features,
    info_nce,
    init_dense,
    squared_norm,
    xavier,
)
from fedvlr_jax.centralized.sampling import Batch
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.types import PyTree

TEMPERATURE = 0.2


def _init(dataset: Dataset, widths: dict[str, int], width: int, key: jax.Array) -> PyTree:
    users, items, query, score, *keys = jax.random.split(key, 4 + len(widths))
    modalities = {}
    for (name, size), k in zip(widths.items(), keys, strict=True):
        projection, gate, preference = jax.random.split(k, 3)
        modalities[name] = {
            "projection": init_dense(projection, size, width),
            "gate": init_dense(gate, width, width),
            "preference": init_dense(preference, width, width),
        }
    return {
        "users": xavier(users, dataset.num_users, width),
        "items": xavier(items, dataset.num_items, width),
        "query": init_dense(query, width, width),
        "score": xavier(score, width, 1),
        "modalities": modalities,
    }


def _views(layers: int, params: PyTree, data: PyTree) -> tuple[jax.Array, jax.Array]:
    """(content [N + I, d] of the user-item view, side [N + I, d])."""
    graph, items = data["graph"], params["items"]
    content = jnp.concatenate(light_gcn(graph, params["users"], items, layers))
    parts = params["modalities"]
    stacked = []
    for name, part in parts.items():
        feature = dense(part["projection"], data["features"][name])
        purified = items * jax.nn.sigmoid(dense(part["gate"], feature))
        item_rows = propagate(data["similar"][name], purified)
        stacked.append(jnp.concatenate([propagate(graph.to_users, item_rows), item_rows]))
    view = jnp.stack(stacked)  # [M, N + I, d]
    attention = jnp.tanh(dense(params["query"], view)) @ params["score"]
    shared = jnp.sum(jax.nn.softmax(attention, axis=0) * view, axis=0)
    side = shared
    for part, own in zip(parts.values(), view, strict=True):
        side += jax.nn.sigmoid(dense(part["preference"], content)) * (own - shared)
    return content, side / (len(stacked) + 1)


def mgcn(
    dataset: Dataset, *, width: int = 64, layers: int = 2, neighbours: int = 10
) -> CentralizedModel:
    """Behaviour decides which part of the content counts, for items and for users.

    Purifier     x_m = id * sigmoid(W2 (W1 f_m + b1) + b2), per modality m   eqs. 1 and 2
    Item view    z_m = S_m x_m over the kNN graph S_m of the frozen features;
                 users take the normalised sum of their items' z_m           eqs. 4 to 8
    User-item    c = LightGCN(ids)                                           eq. 3
    Fuser        a_m = softmax_m(q2 tanh(W3 z_m + b3)), shared s = sum_m a_m z_m,
                 side = (s + sum_m sigmoid(W_m c + b_m) * (z_m - s)) / (M + 1)
    score(u, i) = <c_u + side_u, c_i + side_i>
    loss = BPR + contrast * (InfoNCE(side_i, c_i) + InfoNCE(side_u, c_u)) + l2 * norm

    with the InfoNCE over the mini-batch at temperature 0.2 and the L2 norm of the
    mini-batch's final vectors.

    *choice*: features stay frozen; negative cosines in S_m weigh 0; one layer of S_m.
    """
    features = frozen_features(dataset, "mgcn")

    widths = {name: feature.shape[1] for name, feature in features.items()}
    init = functools.partial(_init, dataset, widths, width)
    views = functools.partial(_views, layers)

    def embeddings(params, data):
        content, side = views(params, data)
        final = content + side
        return final[: dataset.num_users], final[dataset.num_users :]

    def loss(params, data, batch: Batch, key):
        content, side = views(params, data)
        final, item = content + side, dataset.num_users + batch.positive
        rows = final[batch.user], final[item], final[dataset.num_users + batch.negative]
        contrast = jnp.zeros(())
        for part, row in (
            (slice(None, dataset.num_users), batch.user),
            (slice(dataset.num_users, None), batch.positive),
        ):
            contrast += info_nce(side[part], content[part], row, TEMPERATURE)
        weights = data["weights"]
        return (
            bpr_loss(*rows) + weights["contrast"] * contrast + weights["l2"] * squared_norm(*rows)
        )

    return CentralizedModel(
        data={
            "graph": in_cheaper_form(interaction_graph(dataset.train)),
            "features": features,
            "similar": {
                name: similarity_graph(dataset.features[name], neighbours, weighted=True)
                for name in features
            },
        },
        weights={"contrast": 0.01, "l2": 1e-4},
        grid=("contrast", (1e-3, 1e-2, 1e-1)),
        init=init,
        loss=loss,
        embeddings=embeddings,
    )
