"""Fusion of item features into the item vectors that a client scores.

A `Fusion` has a server side (`views` maps all items to G views, Eq. 1-2) and a client side
(`route` gives the client's weights over the views, Eq. 3-4). The vector of an item for a client is
sum_j w_j F_j (Eq. 5).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedvlr_jax import registry
from fedvlr_jax.errors import InputError
from fedvlr_jax.fusion.operators import OPERATORS, softmax
from fedvlr_jax.types import PyTree


class Fusion(NamedTuple):
    """Pure functions of one fusion.

    Attributes:
      names: the names of the G views.
      init_shared: key -> gamma, the parameters of the operators; they stay on the server.
      views: (gamma, items [I, d], features {modality: [I, d_m]}) -> [I, G, d].
      init_router: key -> the router parameters of one client; {} for a fusion without a router.
      route: (router, pooled history [G * d]) -> weights [G], positive, with sum 1.
      after_first: where a router begins with a dense layer router["first"] (kernel [G * d, h],
        bias [h]): (router, that layer's output [h]) -> weights; else None.
      set_logits: (router, logits [G]) -> a router whose weights are the softmax of the logits for
        every history, until it is trained; None where there is no router.
      zero_content_views: gamma -> a gamma whose views are 0, except those that are the rows of
        the ID table; None where no view is. Training can move them away from 0.
      table_weight: the weight of the ID table's rows within their view, before training.
    """

    names: tuple[str, ...]
    init_shared: Callable[[jax.Array], PyTree]
    views: Callable[[PyTree, jax.Array, Mapping[str, jax.Array]], jax.Array]
    init_router: Callable[[jax.Array], PyTree]
    route: Callable[[PyTree, jax.Array], jax.Array]
    after_first: Callable[[PyTree, jax.Array], jax.Array] | None = None
    set_logits: Callable[[PyTree, jax.Array], PyTree] | None = None
    zero_content_views: Callable[[PyTree], PyTree] | None = None
    table_weight: float = 1.0


class FusionOptions(NamedTuple):
    """The options of a fusion.

    Attributes:
      names: the names of the views. width: d. hidden: the hidden width of a router.
      widths: {modality: the width of its features}.
    """

    names: tuple[str, ...]
    width: int
    hidden: int
    widths: Mapping[str, int]


class MultiView(nn.Module):
    """Maps every modality to width d (linear, then LayerNorm) and applies the operators.

    The name of a view is an operator over the mapped modalities, one mapped modality, or `table`:
    the rows of the ID table, not mapped.
    """

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, items: jax.Array, features: Mapping[str, jax.Array]) -> jax.Array:
        width = items.shape[-1]
        tokens = {}
        # Sorted: jit sorts the keys of a dict, and operators concatenate tokens in this order.
        for name, x in (("id", items), *sorted(features.items())):
            tokens[name] = nn.LayerNorm(name=f"norm_{name}")(nn.Dense(width, name=f"map_{name}")(x))
        # `table` is not mapped: the LayerNorm removes the norm of a row, and the norm carries much
        # of an item's popularity.
        known = {"table": items, **tokens}
        views = [
            known[name] if name in known else OPERATORS[name](name=name)(tokens)
            for name in self.names
        ]
        return jnp.stack(views, axis=1)


class SharedMixture(nn.Module):
    """The mean of the views of `MultiView`, weighted by softmax(a); all clients share a learned a.

    The initial weights are uniform, as those of a router.
    """

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, items: jax.Array, features: Mapping[str, jax.Array]) -> jax.Array:
        # The name is part of the random key of the parameters, and of saved runs.
        views = MultiView(names=self.names, name="of_views")(items, features)
        logits = self.param("logits", nn.initializers.zeros, (len(self.names),))
        return jnp.einsum("g,igd->id", softmax(logits), views)[:, None, :]


class WithContent(nn.Module):
    """The ID row plus a projection of the concatenated modalities: D_i + [C_i; V_i] E."""

    @nn.compact
    def __call__(self, items: jax.Array, features: Mapping[str, jax.Array]) -> jax.Array:
        if not features:
            return items[:, None, :]
        # Sorted: jit sorts the keys of a dict.
        content = jnp.concatenate([x for _, x in sorted(features.items())], axis=-1)
        projected = nn.Dense(items.shape[-1], use_bias=False, name="projection")(content)
        return (items + projected)[:, None, :]


class Router(nn.Module):
    """Two layers over the pooled history; softmax weights over the views (Eq. 4).

    *choice*: the kernel of the last layer is initialised to zero. Every client then starts with
    uniform weights, and learns its preference from its own history.
    """

    num_views: int
    hidden: int

    def setup(self) -> None:
        self.first = nn.Dense(self.hidden)
        self.last = nn.Dense(self.num_views, kernel_init=nn.initializers.zeros)

    def __call__(self, pooled: jax.Array) -> jax.Array:
        return self.after_first(self.first(pooled))

    def after_first(self, x: jax.Array) -> jax.Array:
        return softmax(self.last(nn.relu(x)))


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


def view_names(views: str, modalities: Iterable[str], identity: str = "id") -> tuple[str, ...]:
    """The names of the views in --views; "auto" is `identity` and every modality of the data set.

    Args:
      identity: the view of the ID table, "id" or "table".
    """
    if views == "auto":
        return (identity, *modalities)
    return tuple(name.strip() for name in views.split(","))


def describe_views(fusion: Fusion, modalities: Iterable[str]) -> list[str]:
    """Lines for the start of a run: the views, and the modalities that no view uses.

    Args:
      modalities: the names of the data set's features.
    """
    has_router = fusion.set_logits is not None
    weighted = ", weighted by the router of each client" if has_router else ""
    lines = [f"views: {', '.join(fusion.names)}{weighted}"]
    if has_router and len(fusion.names) == 1:
        lines.append(
            "one view: every router weight is 1, so this run has no personal fusion; give two or "
            "more --views"
        )
    fused = {"mlp", "vbpr", "shared", *OPERATORS} & set(fusion.names)
    unused = [] if fused else [name for name in modalities if name not in fusion.names]
    if unused:
        lines.append(f"no view uses the features {', '.join(unused)}: this run ignores them")
    return lines


def make_fusion(
    name: str, *, views: tuple[str, ...], width: int, hidden: int, widths: Mapping[str, int]
) -> Fusion:
    """Builds the fusion `name` for a data set whose modalities have the given `widths`.

    Raises:
      InputError: a view is neither an operator, "id", "table", nor a modality of the data set; or
        a modality has the name of an operator, "id", "table" or "auto".
    """
    taken = sorted({"id", "table", "auto", *OPERATORS} & set(widths))
    if taken:
        raise InputError(
            f"modality {taken[0]!r}: another view has this name; rename the file of features"
        )
    known = (*OPERATORS, "id", "table", *widths)
    for view in views if name in ("shared", "bilevel") else ():
        if view not in known:
            raise InputError(
                f"--views={','.join(views)}: {view!r} is not a view of this data set; "
                f"known are {', '.join(known)}; --views=auto uses all modalities"
            )
    options = FusionOptions(names=views, width=width, hidden=hidden, widths=widths)
    return FUSIONS[name](options)


FUSIONS: Mapping[str, Callable[[FusionOptions], Fusion]] = registry.Factories(registry.FUSIONS)
