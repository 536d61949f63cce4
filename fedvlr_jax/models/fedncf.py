"""FedNCF (Perifanis & Efraimidis 2022): NeuMF with private user vectors.

The score is the sum of a GMF product and an MLP over [user; item] with layers [2d, d, d/2, d/4].
*choice*: both branches use one item vector, where NeuMF has two tables. All backbones can then use
the same fusion. The user has two vectors.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedvlr_jax.models.backbone import Backbone, Embedding, Linear
from fedvlr_jax.types import PyTree


class NeuMF(nn.Module):
    """(user vectors {"gmf": [d], "mlp": [d]}, items [R, d]) -> logits [R].

    The first layer over [user; item] is split into two halves. The user's half is computed once,
    not once for each row. The item's half is computed once for all users.
    """

    width: int

    def setup(self) -> None:
        self.item = nn.Dense(self.width, use_bias=False)
        self.user = nn.Dense(self.width)
        self.hidden = [nn.Dense(self.width // 2), nn.Dense(self.width // 4)]
        self.out_mlp = nn.Dense(1)
        self.out_gmf = self.param(
            "out_gmf", nn.initializers.normal(self.width**-0.5), (self.width,)
        )

    def embed(self, items: jax.Array) -> jax.Array:
        """[..., d] -> the item's half of the first layer [..., d]."""
        return self.item(items)

    def score_mlp(self, user: PyTree, embedded: jax.Array) -> jax.Array:
        """(user vectors, the item's half of the first layer [R, d]) -> logits [R]."""
        hidden = nn.relu(embedded + self.user(user["mlp"])[None])
        for layer in self.hidden:
            hidden = nn.relu(layer(hidden))
        return self.out_mlp(hidden)[:, 0]

    def __call__(self, user: PyTree, items: jax.Array) -> jax.Array:
        gmf = items @ (user["gmf"] * self.out_gmf)
        return gmf + self.score_mlp(user, self.embed(items))


def _init_private(key: jax.Array, width: int) -> PyTree:
    gmf, mlp = jax.random.split(key)
    return {
        "gmf": jax.random.normal(gmf, (width,)) / jnp.sqrt(width),
        "mlp": jax.random.normal(mlp, (width,)) / jnp.sqrt(width),
    }


def _init_shared(key: jax.Array, width: int) -> PyTree:
    user = {"gmf": jnp.zeros(width), "mlp": jnp.zeros(width)}
    return NeuMF(width).init(key, user, jnp.zeros((1, width)))["params"]


def _width(shared: PyTree) -> int:
    return shared["item"]["kernel"].shape[0]


def _score(shared: PyTree, private: PyTree, vectors: jax.Array) -> jax.Array:
    return jnp.asarray(NeuMF(_width(shared)).apply({"params": shared}, private, vectors))


def _embed(shared: PyTree, vectors: jax.Array) -> jax.Array:
    return jnp.asarray(NeuMF(_width(shared)).apply({"params": shared}, vectors, method="embed"))


def _score_mlp(shared: PyTree, private: PyTree, embedded: jax.Array) -> jax.Array:
    module, params = NeuMF(_width(shared)), {"params": shared}
    return jnp.asarray(module.apply(params, private, embedded, method="score_mlp"))


def _gmf(shared: PyTree, private: PyTree) -> Linear:
    return Linear(private["gmf"] * shared["out_gmf"], jnp.zeros(()))


def fedncf() -> Backbone:
    """A shared `NeuMF` and two private vectors. A client has the weight of its number of items."""
    return Backbone(
        init_shared=_init_shared,
        init_private=_init_private,
        score=_score,
        linear=None,
        weight="history",
        embedding=Embedding(_embed, _score_mlp, _gmf),
    )
