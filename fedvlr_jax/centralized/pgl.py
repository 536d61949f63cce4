"""PGL: Mind Individual Information! Principal Graph Learning for Multimedia Recommendation.

Yu et al., AAAI 2025.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from fedvlr_jax.centralized.graph import (
    Bipartite,
    Graph,
    in_cheaper_form,
    interaction_graph,
    light_gcn,
    propagate,
    similarity_graph,
    symmetric_weights,
)
from fedvlr_jax.centralized.model import (
    CentralizedModel,
    bpr_loss,
    dense,
    dropout,
    frozen_features,
    info_nce,
    init_dense,
    unit_rows,
    xavier,
)
from fedvlr_jax.centralized.sampling import Batch
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.types import PyTree

TEMPERATURE = 0.2


def principal_subgraph(key: jax.Array, graph: Graph, num_items: int, kept: int) -> Bipartite:
    """Draws `kept` user-item edges without replacement and normalises the subgraph.

    The probability of an edge is proportional to 1 / sqrt(d_u d_i), so the subgraph has fewer edges
    of popular items. The edges with the largest log weight + Gumbel noise are such a draw. A node
    without edges receives no message.

    Args:
      graph: [N, I], the users' side of the whole normalised graph.
      kept: static, the number of edges.
    """
    noise = jax.random.gumbel(key, graph.weight.shape, mode="low")
    _, edge = jax.lax.top_k(jnp.log(graph.weight) + noise, kept)
    user, item = graph.target[edge], graph.source[edge]
    num_users = graph.num_targets
    weight = symmetric_weights(user, item, num_users, num_items)
    side = lambda target, source, count: Graph(
        target=target, source=source, weight=weight, num_targets=count, ascending=False
    )
    return Bipartite(side(user, item, num_users), side(item, user, num_items))


def _init(num_users: int, widths: dict[str, int], width: int, key: jax.Array) -> PyTree:
    users, *keys = jax.random.split(key, 1 + len(widths))
    return {
        # One table a modality, so that its width is not part of the initial scale.
        "users": jnp.concatenate(
            [xavier(k, num_users, width) for k in jax.random.split(users, len(keys))],
            axis=1,
        ),
        "projections": {
            name: init_dense(k, size, width)
            for (name, size), k in zip(widths.items(), keys, strict=True)
        },
    }


def pgl(
    dataset: Dataset,
    *,
    width: int = 64,
    layers: int = 2,
    neighbours: int = 10,
    kept_share: float = 0.3,
    image_share: float = 0.1,
    dropout_rate: float = 0.2,
) -> CentralizedModel:
    """Trains on a principal subgraph, drawn in each epoch; recommends on the whole graph.

    x_i = [normalised W_m f_m + b_m for each modality m], no id; x_u free, [N, M d]
    u, i = LightGCN(x_u, x_i) on the principal subgraph in training, else on the whole graph
    i += S x_i, S the weighted sum of the modalities' binary kNN graphs
    score(u, i) = <u, i>
    loss = BPR + contrast * (InfoNCE(drop(u), drop(u)) + InfoNCE(drop(i), drop(i))) / 2
    over the mini-batch, with two independent dropouts of every vector

    *choice*: the local-aware extraction, not the global-aware one (a truncated SVD); it
    keeps `kept_share` of the edges. Features stay frozen; `image_share` of S is the image
    graph where there are other modalities, which share the rest evenly. No L2 norm, as in
    the authors' release.
    """
    features = frozen_features(dataset, "pgl")
    kept = max(1, int(kept_share * len(dataset.train)))

    def share(name: str) -> float:
        if "image" not in features or len(features) == 1:
            return 1 / len(features)
        return image_share if name == "image" else (1 - image_share) / (len(features) - 1)

    widths = {name: feature.shape[1] for name, feature in features.items()}
    init = functools.partial(_init, dataset.num_users, widths, width)

    def prepare(data, key):
        subgraph = principal_subgraph(key, data["edges"], dataset.num_items, kept)
        return {**data, "graph": in_cheaper_form(subgraph)}

    def embeddings(params, data):
        items = jnp.concatenate(
            [
                unit_rows(dense(params["projections"][name], data["features"][name]))
                for name in features
            ],
            axis=1,
        )
        latent = jnp.zeros_like(items)
        for name in features:
            latent += share(name) * propagate(data["similar"][name], items)
        users, principal = light_gcn(data["graph"], params["users"], items, layers)
        return users, principal + latent

    def loss(params, data, batch: Batch, key):
        users, items = embeddings(params, data)
        rows = users[batch.user], items[batch.positive], items[batch.negative]
        contrast = jnp.zeros(())
        for table, row, k in zip((users, items), batch[:2], jax.random.split(key), strict=True):
            first, second = (dropout(k2, table, dropout_rate) for k2 in jax.random.split(k))
            contrast += 0.5 * info_nce(first, second, row, TEMPERATURE)
        return bpr_loss(*rows) + data["weights"]["contrast"] * contrast

    edges = interaction_graph(dataset.train)
    return CentralizedModel(
        data={
            "edges": edges.to_users,
            "graph": in_cheaper_form(edges),
            "features": features,
            "similar": {
                name: similarity_graph(dataset.features[name], neighbours, weighted=False)
                for name in features
            },
        },
        weights={"contrast": 1e-2},
        grid=("contrast", (1e-3, 1e-2, 1e-1)),
        init=init,
        prepare=prepare,
        loss=loss,
        embeddings=embeddings,
    )
