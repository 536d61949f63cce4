"""The server's network that fuses the features of an item for a group of clients."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn


class GroupNetwork(nn.Module):
    """A vector of every item for every group: features {modality: [I, d_m]} -> [G, I, d].

    A group has a learned embedding e_g. Every modality is mapped to width d (linear, then
    LayerNorm). The output is W_2 relu(W_1 [e_g; x_1; ...; x_M]) with 2 d hidden units. The map W_1
    is split by its inputs, so that the part of an item is computed once for all groups.
    """

    num_groups: int
    width: int

    @nn.compact
    def __call__(self, features: Mapping[str, jax.Array]) -> jax.Array:
        hidden = 2 * self.width
        shape = self.num_groups, self.width
        embedding = self.param("groups", nn.initializers.normal(1.0), shape)
        total = nn.Dense(hidden, name="hidden_group")(embedding)[:, None, :]
        # Sorted: jit sorts the keys of a dict.
        for name, x in sorted(features.items()):
            token = nn.LayerNorm(name=f"norm_{name}")(nn.Dense(self.width, name=f"map_{name}")(x))
            part = nn.Dense(hidden, use_bias=False, name=f"hidden_{name}")(token)
            total = total + part[None, :, :]
        return jnp.asarray(nn.Dense(self.width, name="out")(nn.relu(total)))
