"""The fusions, one function each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedvlr_jax.fusion.fusion import Fusion
from fedvlr_jax.fusion.modules import MultiView, Router, SharedMixture, WithContent
from fedvlr_jax.types import PyTree


def _no_router(key: jax.Array) -> PyTree:
    return {}


def _only_view(router: PyTree, pooled: jax.Array) -> jax.Array:
    return jnp.ones(1, pooled.dtype)


def none() -> Fusion:
    """An item's vector is its row of the ID table."""
    return Fusion(
        names=("id",),
        init_shared=lambda key: {},
        views=lambda gamma, items, features: items[:, None, :],
        init_router=_no_router,
        route=_only_view,
        zero_content_views=lambda gamma: gamma,
    )


def _server_side(
    module: nn.Module, width: int, widths: Mapping[str, int]
) -> tuple[
    Callable[[jax.Array], PyTree],
    Callable[[PyTree, jax.Array, Mapping[str, jax.Array]], jax.Array],
]:
    """`Fusion.init_shared` and `Fusion.views` of a module called with (items, features)."""

    def init_shared(key: jax.Array) -> PyTree:
        row = {name: jnp.zeros((1, size)) for name, size in widths.items()}
        return module.init(key, jnp.zeros((1, width)), row).get("params", {})

    def views(gamma: PyTree, items: jax.Array, features: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.asarray(module.apply({"params": gamma}, items, features))

    return init_shared, views


def vbpr(width: int, widths: Mapping[str, int]) -> Fusion:
    """The item's ID row plus its projected content, without a router: the paper's "+ VBPR".

    *choice*: the content is added. VBPR (He & McAuley 2016, eq. 4) concatenates it and gives each
    user a second vector for it. With the sum, an item vector keeps width d, so all fusions use the
    same backbones and heads. The user's vector scores both parts.
    """
    init_shared, views = _server_side(WithContent(), width, widths)
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return Fusion(("vbpr",), init_shared, views, _no_router, _only_view, zero_content_views=zeros)


def mlp(width: int, widths: Mapping[str, int]) -> Fusion:
    """One shared `mlp` operator and no router: the paper's "+ MLP"."""
    init_shared, views = _server_side(MultiView(names=("mlp",)), width, widths)
    return Fusion(("mlp",), init_shared, views, _no_router, _only_view)


def shared(names: tuple[str, ...], width: int, widths: Mapping[str, int]) -> Fusion:
    """The views of `bilevel` with one mixture for all clients: the control of `bilevel`."""
    init_shared, views = _server_side(SharedMixture(names=names), width, widths)

    def zero_content_views(gamma: PyTree) -> PyTree:
        return {**gamma, "of_views": _without_content(gamma["of_views"])}

    return Fusion(
        ("shared",),
        init_shared,
        views,
        _no_router,
        _only_view,
        zero_content_views=zero_content_views if _table_and_content(names, widths) else None,
        table_weight=1 / len(names),
    )


def _without_content(gamma: PyTree) -> PyTree:
    """Parameters of `MultiView` for which all views of content are 0."""
    # The scale of a LayerNorm has a nonzero gradient at 0, so training can change it.
    return {
        name: jax.tree.map(jnp.zeros_like, layer) if name.startswith("norm_") else layer
        for name, layer in gamma.items()
    }


def _table_and_content(names: tuple[str, ...], widths: Mapping[str, int]) -> bool:
    return "table" in names and set(names) <= {"table", *widths}


def bilevel(names: tuple[str, ...], width: int, hidden: int, widths: Mapping[str, int]) -> Fusion:
    """Several views on the server, a private router on every client."""
    init_shared, views = _server_side(MultiView(names=names), width, widths)
    router = Router(num_views=len(names), hidden=hidden)

    def init_router(key: jax.Array) -> PyTree:
        return router.init(key, jnp.zeros(len(names) * width))["params"]

    def route(params: PyTree, pooled: jax.Array) -> jax.Array:
        return jnp.asarray(router.apply({"params": params}, pooled))

    def after_first(params: PyTree, x: jax.Array) -> jax.Array:
        return jnp.asarray(router.apply({"params": params}, x, method="after_first"))

    def set_logits(params: PyTree, logits: jax.Array) -> PyTree:
        # The kernel of the last layer begins at zero, so its bias is the logits.
        return {**params, "last": {**params["last"], "bias": logits}}

    return Fusion(
        names,
        init_shared,
        views,
        init_router,
        route,
        after_first,
        set_logits,
        _without_content if _table_and_content(names, widths) else None,
    )
