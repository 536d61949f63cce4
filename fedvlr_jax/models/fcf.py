"""FCF (Ammad-ud-din et al. 2019): shared item table, private user vector.

*choice*: a private bias, and the binary cross-entropy of the other backbones. The original uses
implicit-feedback least squares.
"""

from fedvlr_jax.models.backbone import (
    Backbone,
    linear_head,
    linear_score,
    no_head,
    private_linear,
)


def fcf() -> Backbone:
    """A private linear head; no shared one."""
    return Backbone(
        init_shared=no_head,
        init_private=linear_head,
        score=linear_score(private_linear),
        linear=private_linear,
        weight="equal",
    )
