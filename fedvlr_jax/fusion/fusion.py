"""Fusion of item features into the item vectors that a client scores.

A `Fusion` has a server side (`views` maps all items to G views, Eq. 1-2) and a client side
(`route` gives the client's weights over the views, Eq. 3-4). The vector of an item for a client is
sum_j w_j F_j (Eq. 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax

from fedvlr_jax import registry
from fedvlr_jax.errors import InputError
from fedvlr_jax.fusion.operators import OPERATORS
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
