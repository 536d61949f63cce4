"""FedRAP (Li et al. 2024): common item rows from the server plus a personal item table.

Loss of a row: cross-entropy - a_t mean (P - C)^2 + b_t mean |C|, P the personal row, C
the common one, a_t and b_t annealed by tanh(t / 10) over the rounds t.
*choice*: with a fusion, C is the client's fused vector. Sparse is to be what the server sends,
so |C| is sum_g w_g |F_g| over its views: the same where there is one view, never less where
there are several.
"""

import jax.numpy as jnp

from fedvlr_jax.models.backbone import (
    Backbone,
    Penalty,
    linear_head,
    linear_score,
    no_head,
    private_linear,
)


def fedrap(*, apart: float, sparse: float) -> Backbone:
    def penalty(round_number):
        annealed = jnp.tanh(jnp.asarray(round_number, float) / 10.0)
        return Penalty(apart * annealed, sparse * annealed)

    return Backbone(
        init_shared=no_head,
        init_private=linear_head,
        score=linear_score(private_linear),
        linear=private_linear,
        weight="equal",
        item_rows="personal",
        penalty=penalty,
    )
