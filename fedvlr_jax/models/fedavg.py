"""FedAvg (McMahan et al. 2017): item table and linear head are both shared.

Without fusion all users get the same ranking. With a fusion that has a router, the router is the
only private part.
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
