"""The parameters of the fusions: the server's maps and operators, and the client's router."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedvlr_jax.fusion.operators import OPERATORS, softmax


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
