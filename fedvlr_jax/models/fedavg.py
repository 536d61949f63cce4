"""FedAvg (McMahan et al. 2017): item table and linear head are both shared.

Without fusion all users get the same ranking. With a fusion that has a router, the router is
private. With `fedavg_rows="tuned"` the client fine-tunes the item rows of the broadcast in each
round, and ranks with the tuned rows, as in PFedRec; they are the only personal part beside it.
"""

from fedvlr_jax.models.backbone import Backbone, Linear, linear_head, linear_score, no_head
from fedvlr_jax.types import PyTree


def _linear(shared: PyTree, private: PyTree) -> Linear:
    return Linear(shared["vector"], shared["bias"])


def fedavg(fedavg_rows: str = "shared") -> Backbone:
    """A shared linear head; `fedavg_rows` as the flag of this name."""
    return Backbone(
        init_shared=linear_head,
        init_private=no_head,
        score=linear_score(_linear),
        linear=_linear,
        weight="history",
        item_rows="tuned" if fedavg_rows == "tuned" else None,
    )
