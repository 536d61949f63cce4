"""FedAvg (McMahan et al. 2017): everything is shared, item table and linear head.

Without fusion it ranks alike for everyone; the router, where there is one, is then the
only personal part.
"""

from fedvlr_jax.models.backbone import Backbone, Linear, linear_head, linear_score, no_head


def _linear(shared, private):
    return Linear(shared["vector"], shared["bias"])


def fedavg() -> Backbone:
    return Backbone(
        init_shared=linear_head,
        init_private=no_head,
        score=linear_score(_linear),
        linear=_linear,
        weight="history",
    )
