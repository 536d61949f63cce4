"""FedRAP (Li et al. 2024): common item rows from the server plus a personal item table.

Loss of a row: cross-entropy - a_t mean (P - C)^2 + b_t mean |C|, P the personal row, C
the common one, a_t and b_t annealed by tanh(t / 10) over the rounds t.
*choice*: with a fusion, C is the client's fused vector, the only common one it receives.
"""

import jax.numpy as jnp

from fedvlr_jax.models.backbone import Backbone, Linear, linear_head, linear_score, no_head


def _linear(shared, private):
    return Linear(private["vector"], private["bias"])


def fedrap(*, apart: float, sparse: float) -> Backbone:
    def penalty(common, personal, round_number):
        annealed = jnp.tanh(round_number / 10.0)
        distance = jnp.mean(jnp.square(personal - common), axis=-1)
        size = jnp.mean(jnp.abs(common), axis=-1)
        return annealed * (sparse * size - apart * distance)

    return Backbone(
        init_shared=no_head,
        init_private=linear_head,
        score=linear_score(_linear),
        linear=_linear,
        weight="equal",
        item_rows="personal",
        penalty=penalty,
    )
