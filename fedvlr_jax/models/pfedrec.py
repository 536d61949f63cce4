"""PFedRec (Zhang et al. 2023), dual personalisation: a private score head, and item rows
fine-tuned on the device from each round's broadcast; it ranks with the tuned rows.

*choice*: head and rows move together in every local epoch, where the original trains one
after the other.
"""

from fedvlr_jax.models.backbone import (
    Backbone,
    linear_head,
    linear_score,
    no_head,
    private_linear,
)


def pfedrec() -> Backbone:
    return Backbone(
        init_shared=no_head,
        init_private=linear_head,
        score=linear_score(private_linear),
        linear=private_linear,
        weight="equal",
        item_rows="tuned",
    )
