"""What stands between the server's item features and a client's score.

A `Fusion` has a server side (`views`: all items into G views, Eq. 1-2) and a client
side (`route`: the client's weights over those views, Eq. 3-4). An item's vector for a
client is sum_j w_j F_j (Eq. 5).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedvlr_jax.errors import InputError
from fedvlr_jax.fusion.operators import OPERATORS, softmax
from fedvlr_jax.types import PyTree


class Fusion(NamedTuple):
    """Pure functions of one fusion.

    Attributes:
      names: the G views.
      init_shared: key -> gamma, the operators' parameters (the server's).
      views: (gamma, items [I, d], features {modality: [I, d_m]}) -> [I, G, d].
      init_router: key -> one client's router parameters ({} where there is none).
      route: (router, pooled history [G * d]) -> weights [G], positive, summing to one.
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


class MultiView(nn.Module):
    """Maps every modality to width d (linear, then LayerNorm) and applies the operators.

    A view is an operator of the mapped modalities, one of them by its name, or `table`: the
    rows of the ID table as they are.
    """

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, items: jax.Array, features: Mapping[str, jax.Array]) -> jax.Array:
        width = items.shape[-1]
        tokens = {}
        # Sorted, for jit hands a dict over in sorted order, and operators join tokens in theirs.
        for name, x in (("id", items), *sorted(features.items())):
            tokens[name] = nn.LayerNorm(name=f"norm_{name}")(nn.Dense(width, name=f"map_{name}")(x))
        # A LayerNorm takes from a row its length, which holds much of an item's popularity.
        known = {"table": items, **tokens}
        views = [
            known[name] if name in known else OPERATORS[name](name=name)(tokens)
            for name in self.names
        ]
        return jnp.stack(views, axis=1)


class SharedMixture(nn.Module):
    """The views of `MultiView`, weighed by softmax(a) with one learned a for all clients.

    Weights start uniform, as those of a router do.
    """

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, items: jax.Array, features: Mapping[str, jax.Array]) -> jax.Array:
        views = MultiView(names=self.names, name="view_cache")(items, features)
        logits = self.param("logits", nn.initializers.zeros, (len(self.names),))
        return jnp.einsum("g,igd->id", softmax(logits), views)[:, None, :]


class WithContent(nn.Module):
    """The ID row plus one projection of all modalities, joined: D_i + [C_i; V_i] E."""

    @nn.compact
    def __call__(self, items: jax.Array, features: Mapping[str, jax.Array]) -> jax.Array:
        if not features:
            return items[:, None, :]
        # Sorted, for jit hands a dict over in sorted order.
        content = jnp.concatenate([x for _, x in sorted(features.items())], axis=-1)
        projected = nn.Dense(items.shape[-1], use_bias=False, name="projection")(content)
        return (items + projected)[:, None, :]


class Router(nn.Module):
    """Two layers over the pooled history; softmax weights over the views (Eq. 4).

    *choice*: the last layer starts at zero, so that every client starts from uniform
    weights and a preference has to be earned from its own history.
    """

    num_views: int
    hidden: int

    def setup(self):
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


def _server_side(module: nn.Module, width: int, widths: Mapping[str, int]):
    """(init_shared, views) of a module called with (items, features)."""

    def init_shared(key: jax.Array) -> PyTree:
        row = {name: jnp.zeros((1, size)) for name, size in widths.items()}
        return module.init(key, jnp.zeros((1, width)), row).get("params", {})

    def views(gamma: PyTree, items: jax.Array, features: Mapping[str, jax.Array]) -> jax.Array:
        return jnp.asarray(module.apply({"params": gamma}, items, features))

    return init_shared, views


def vbpr(width: int, widths: Mapping[str, int]) -> Fusion:
    """The item's content added to its ID row, no router: the paper's "+ VBPR".

    *choice*: added, where VBPR (He & McAuley 2016, eq. 4) appends the content and gives a
    user a second vector for it. An item's vector keeps width d, so that the same backbones
    are compared, with the same heads; the user's vector then serves both parts.
    """
    init_shared, views = _server_side(WithContent(), width, widths)
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return Fusion(("vbpr",), init_shared, views, _no_router, _only_view, zero_content_views=zeros)


def mlp(width: int, widths: Mapping[str, int]) -> Fusion:
    """One shared `mlp` operator and no router: the paper's "+ MLP"."""
    init_shared, views = _server_side(MultiView(names=("mlp",)), width, widths)
    return Fusion(("mlp",), init_shared, views, _no_router, _only_view)


def shared(names: tuple[str, ...], width: int, widths: Mapping[str, int]) -> Fusion:
    """The views of `bilevel` and one mixture of them for all clients: its control."""
    init_shared, views = _server_side(SharedMixture(names=names), width, widths)

    def zero_content_views(gamma: PyTree) -> PyTree:
        return {**gamma, "view_cache": _without_content(gamma["view_cache"])}

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
    """Parameters of `MultiView` with which all views of content are 0."""
    # A LayerNorm's scale at 0 still has a gradient, and so starts to move.
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
    """The views that --views names; "auto" are `identity` and every modality of the data set.

    Args:
      identity: the view of the ID table, "id" or "table".
    """
    if views == "auto":
        return (identity, *modalities)
    return tuple(name.strip() for name in views.split(","))


def describe_views(fusion: Fusion, modalities: Iterable[str]) -> list[str]:
    """Lines for the start of a run: the views, and the modalities that no view has.

    Args:
      modalities: the names of the data set's features.
    """
    has_router = fusion.set_logits is not None
    weighed = ", weighted by the router of each client" if has_router else ""
    lines = [f"views: {', '.join(fusion.names)}{weighed}"]
    if has_router and len(fusion.names) == 1:
        lines.append(
            "one view: every router weight is 1, so this run has no personal fusion; give two or "
            "more --views"
        )
    fused = {"mlp", "vbpr", "shared", *OPERATORS} & set(fusion.names)
    unused = [] if fused else [name for name in modalities if name not in fusion.names]
    if unused:
        lines.append(f"no view has the features {', '.join(unused)}: this run does not use them")
    return lines


def make_fusion(
    name: str, *, views: tuple[str, ...], width: int, hidden: int, widths: Mapping[str, int]
) -> Fusion:
    """Builds the fusion `name` for a data set whose modalities have the given `widths`.

    Raises:
      InputError: a view that is neither an operator, "id", "table", nor a modality of the data
        set; or a modality that is called like one of the others.
    """
    taken = sorted({"id", "table", "auto", *OPERATORS} & set(widths))
    if taken:
        raise InputError(
            f"modality {taken[0]!r}: is the name of another view; rename its file of features"
        )
    known = (*OPERATORS, "id", "table", *widths)
    for view in views if name in ("shared", "bilevel") else ():
        if view not in known:
            raise InputError(
                f"--views={','.join(views)}: {view!r} is no view of this data set; "
                f"known are {', '.join(known)}; --views=auto takes what there is"
            )
    return FUSIONS[name](views=views, width=width, hidden=hidden, widths=widths)


FUSIONS: dict[str, Callable[..., Fusion]] = {
    "none": lambda *, views, width, hidden, widths: none(),
    "vbpr": lambda *, views, width, hidden, widths: vbpr(width, widths),
    "mlp": lambda *, views, width, hidden, widths: mlp(width, widths),
    "shared": lambda *, views, width, hidden, widths: shared(views, width, widths),
    "bilevel": lambda *, views, width, hidden, widths: bilevel(views, width, hidden, widths),
}
