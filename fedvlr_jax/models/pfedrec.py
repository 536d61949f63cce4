"""PFedRec (Zhang et al. 2023), dual personalisation: a private score head and private item rows.

In each round the client fine-tunes the item rows of the broadcast. It ranks with the tuned rows.
*choice*: each local epoch updates head and rows together. The original first trains the head and
then the rows.
"""

from fedvlr_jax.models.backbone import (
    Backbone,
    linear_head,
    linear_score,
    no_head,
    private_linear,
)


def pfedrec() -> Backbone:
    """A private linear head, and item rows that a client tunes in each round."""
    return Backbone(
        init_shared=no_head,
        init_private=linear_head,
        score=linear_score(private_linear),
        linear=private_linear,
        weight="equal",
        item_rows="tuned",
    )
