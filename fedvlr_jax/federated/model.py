"""The model of a run: a backbone behind a fusion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fedvlr_jax.config import Config
from fedvlr_jax.fusion import Fusion, make_fusion, view_names
from fedvlr_jax.models import BACKBONES, Backbone
from fedvlr_jax.settings import key_of, shapes_of
from fedvlr_jax.types import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone behind a fusion, for items of a data set.

    With v_i the fused vector of item i, O the client's history and c = `history_weight`, the
    score of an item is

        f(v_i; theta) + c <v_i, (1 / |O|) sum over j in O without i of v_j>.

    Item i itself is left out because a history predicts each of its own items trivially; without
    it, the second term learns the likeness to other items (as in FISM, Kabbur et al. 2013, and by
    the zero diagonal of EASE). For an item outside O it is c <v_i, h>, h the mean of O.

    A client's private rows are {"head": ..., "router": ...}; "items": [I, d] where the backbone
    keeps item rows; and "residual": [I, G, d] where `keeps_residual`, which training does not see.
    `own` has "backbone" and "fusion" where these are not those that the config names.
    """

    backbone: Backbone
    fusion: Fusion
    num_items: int
    width: int
    init_scale: float
    history_weight: float
    keeps_residual: bool = False
    own: frozenset[str] = frozenset()

    @property
    def has_private_vector(self) -> bool:
        """Whether a client's score is <item, its own vector> + bias."""
        head = shapes_of(self.init_private, key_of(0))["head"]
        return self.backbone.linear is not None and "vector" in head

    @property
    def has_router(self) -> bool:
        """Whether a client has a private router."""
        return bool(jax.tree.leaves(shapes_of(self.fusion.init_router, key_of(0))))

    def init_shared(self, key: jax.Array) -> PyTree:
        """{"items": [I, d], "fusion": gamma, "head": ...}."""
        items, fusion, head = jax.random.split(key, 3)
        return {
            "items": self.init_scale * jax.random.normal(items, (self.num_items, self.width)),
            "fusion": self.fusion.init_shared(fusion),
            "head": self.backbone.init_shared(head, self.width),
        }

    def init_private(self, key: jax.Array) -> PyTree:
        """One client's private rows."""
        head, router = jax.random.split(key)
        private = {
            "head": self.backbone.init_private(head, self.width),
            "router": self.fusion.init_router(router),
        }
        if self.backbone.item_rows:
            private["items"] = jnp.zeros((self.num_items, self.width))
        if self.keeps_residual:
            shape = self.num_items, len(self.fusion.names), self.width
            private["residual"] = jnp.zeros(shape)
        return private


def likeness(
    vectors: jax.Array, mean: jax.Array, positive: jax.Array, length: jax.Array, weight: float
) -> jax.Array:
    """The history term of ONE client's scores [M]: weight * <v_i, the rest of the history>.

    Args:
      vectors: the fused vectors [M, d]; mean: their mean over the history [d].
      positive: the weight of each item in the history [M]. length: of the history [].
    """
    itself = positive * jnp.sum(jnp.square(vectors), axis=1) / length
    return weight * (vectors @ mean - itself)


def identity_view(config: Config) -> str:
    """The view of the ID table in --views=auto: an initialization in closed form needs the raw
    rows."""
    return "id" if config.init.init == "random" else "table"


def make_model(
    config: Config,
    num_items: int,
    widths: Mapping[str, int],
    *,
    backbone: Backbone | None = None,
    fusion: Fusion | None = None,
) -> Model:
    """The model that `config` names, for a catalogue with the given feature widths.

    Args:
      config: resolved, see `Config.resolved`.
      backbone, fusion: in place of those that `config` names.
    """
    model = config.model
    given = {"backbone": backbone, "fusion": fusion}
    own = frozenset(name for name, part in given.items() if part is not None)
    if fusion is None:
        fusion = make_fusion(
            model.fusion,
            views=view_names(model.views, widths, identity_view(config)),
            width=model.width,
            hidden=model.router_hidden,
            widths=widths,
        )
    if backbone is None:
        backbone = BACKBONES[model.backbone](model)
    return Model(
        backbone=backbone,
        fusion=fusion,
        num_items=num_items,
        width=model.width,
        init_scale=model.init_scale,
        history_weight=model.history_weight,
        keeps_residual=config.fleet.upload_rows > 0,
        own=own,
    )
