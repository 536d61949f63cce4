"""The operators. Each combines the modalities of every item into one view (Eq. 1-2).

An operator is a Flax module. Its input is the tokens of all items, {"id": [I, d], modality:
[I, d], ...}, with every modality mapped to width d. Its output is [I, d]. To add an operator,
write it here and give it a line in `registry.OPERATORS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedvlr_jax import registry

Tokens = Mapping[str, jax.Array]


def softmax(x: jax.Array) -> jax.Array:
    """Softmax over the last axis, as a product with the reciprocal of the sum.

    XLA may replace a division by a broadcast value with a product with the reciprocal. Whether it
    does depends on the device layout. The explicit product gives equal bits on all layouts.
    """
    x = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True)))
    return x * (1 / jnp.sum(x, axis=-1, keepdims=True))


class Sum(nn.Module):
    """The sum of all tokens."""

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        return jnp.sum(jnp.stack(list(tokens.values())), axis=0)


class Mixture(nn.Module):
    """Mean of the tokens weighted by softmax(a), with a learned: one weight for each modality.

    All clients share a, as they would share one common router. The initial weights are uniform.
    """

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        logits = self.param("logits", nn.initializers.zeros, (len(tokens),))
        return jnp.einsum("m,mid->id", softmax(logits), jnp.stack(list(tokens.values())))


class Mlp(nn.Module):
    """LN(W2 relu(W1 [x_1; ...; x_M]))."""

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        x = jnp.concatenate(list(tokens.values()), axis=-1)
        width = x.shape[-1] // len(tokens)
        return nn.LayerNorm()(nn.Dense(width)(nn.relu(nn.Dense(width)(x))))


class Gate(nn.Module):
    """LN(W [s(G_1 x_1) * x_1; ...]); s is the sigmoid.

    *choice*: the gates multiply the features, as in the paper's figure. The released code omits
    this product.
    """

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        gated = []
        for name, x in tokens.items():
            gate = nn.sigmoid(nn.Dense(x.shape[-1], name=f"gate_{name}")(x))
            gated.append(gate * x)
        return nn.LayerNorm()(nn.Dense(gated[0].shape[-1])(jnp.concatenate(gated, axis=-1)))


class Attention(nn.Module):
    """Self-attention over the modality tokens of an item, averaged, then LayerNorm."""

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        x = jnp.stack(list(tokens.values()), axis=-2)
        width = x.shape[-1]
        query, key, value = (nn.Dense(width, name=n)(x) for n in ("query", "key", "value"))
        weight = softmax(jnp.einsum("iqd,ikd->iqk", query, key) / jnp.sqrt(width * 1.0))
        return nn.LayerNorm()(jnp.mean(jnp.einsum("iqk,ikd->iqd", weight, value), axis=-2))


class CrossAttention(nn.Module):
    """LN(x_id + softmax(QK/sqrt d)V); the ID token is the query, the other tokens are the keys."""

    @nn.compact
    def __call__(self, tokens: Tokens) -> jax.Array:
        modalities = [x for name, x in tokens.items() if name != "id"] or [tokens["id"]]
        x = jnp.stack(modalities, axis=-2)
        width = x.shape[-1]
        query = nn.Dense(width, name="query")(tokens["id"])
        key, value = (nn.Dense(width, name=n)(x) for n in ("key", "value"))
        weight = softmax(jnp.einsum("id,ikd->ik", query, key) / jnp.sqrt(width * 1.0))
        return nn.LayerNorm()(tokens["id"] + jnp.einsum("ik,ikd->id", weight, value))


OPERATORS: Mapping[str, Callable[..., nn.Module]] = registry.Objects(registry.OPERATORS)
