"""FedRAP (Li et al. 2024): common item rows from the server plus a personal item table.

The loss of a row is cross-entropy - a_t mean (P - C)^2 + b_t mean |C|. P is the personal row and C
is the common row. The factor tanh(t / 10) anneals a_t and b_t over the rounds t.
*choice*: with a fusion, C is the client's fused vector, and sum_g w_g |F_g| over the views replaces
|C|. The L1 term then makes the broadcast views sparse. For one view both are equal; for several
views the sum is an upper bound of |C|.
"""

import jax
import jax.numpy as jnp

from fedvlr_jax.models.backbone import (
    Backbone,
    Penalty,
    linear_head,
    linear_score,
    no_head,
    private_linear,
)


def fedrap(*, fedrap_repulsion: float, fedrap_l1: float) -> Backbone:
    """FedRAP with the coefficients of the flags of these names."""

    def penalty(round_number: jax.Array) -> Penalty:
        annealed = jnp.tanh(jnp.asarray(round_number, float) / 10.0)
        return Penalty(fedrap_repulsion * annealed, fedrap_l1 * annealed)

    return Backbone(
        init_shared=no_head,
        init_private=linear_head,
        score=linear_score(private_linear),
        linear=private_linear,
        weight="equal",
        item_rows="personal",
        penalty=penalty,
    )
