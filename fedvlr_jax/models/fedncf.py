"""FedNCF (Perifanis & Efraimidis 2022): NeuMF with private user vectors.

A GMF product beside an MLP over [user; item] with layers [2d, d, d/2, d/4].
*choice*: one item vector feeds both branches (NeuMF keeps two tables), so that the
fusion in front of it is the same as for every other backbone; the user has two vectors.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedvlr_jax.models.backbone import Backbone


class NeuMF(nn.Module):
    """(user vectors {"gmf": [d], "mlp": [d]}, items [R, d]) -> logits [R]."""

    width: int

    @nn.compact
    def __call__(self, user, items):
        # The first layer over [user; item] is split in two, so that the user's half is
        # computed once and not once a row.
        hidden = nn.Dense(self.width, name="item")(items)
        hidden += nn.Dense(self.width, use_bias=False, name="user")(user["mlp"])[None, :]
        hidden = nn.relu(hidden)
        for width in (self.width // 2, self.width // 4):
            hidden = nn.relu(nn.Dense(width)(hidden))
        both = jnp.concatenate([user["gmf"][None, :] * items, hidden], axis=-1)
        return nn.Dense(1, name="out")(both)[:, 0]


def _init_private(key, width):
    gmf, mlp = jax.random.split(key)
    return {
        "gmf": jax.random.normal(gmf, (width,)) / jnp.sqrt(width),
        "mlp": jax.random.normal(mlp, (width,)) / jnp.sqrt(width),
    }


def _init_shared(key, width):
    user = {"gmf": jnp.zeros(width), "mlp": jnp.zeros(width)}
    return NeuMF(width).init(key, user, jnp.zeros((1, width)))["params"]


def _score(shared, private, vectors):
    return NeuMF(vectors.shape[-1]).apply({"params": shared}, private, vectors)


def fedncf() -> Backbone:
    return Backbone(
        init_shared=_init_shared,
        init_private=_init_private,
        score=_score,
        linear=None,
        weight="history",
    )
