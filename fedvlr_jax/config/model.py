"""The backbone, the fusion and their sizes."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

BACKBONE_NAMES = ("fedavg", "fcf", "fedncf", "pfedrec", "fedrap")
FUSION_NAMES = ("none", "vbpr", "mlp", "shared", "bilevel")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, the fusion in front of it, and their sizes."""

    backbone: str = choice("fcf", "Where each leaf lives, and the score.", BACKBONE_NAMES)
    fusion: str = choice(
        "bilevel",
        "How an item's vector is made of its views. shared, the control of bilevel, weighs the "
        "same views by one learned mixture for all clients.",
        FUSION_NAMES,
    )
    views: str = choice(
        "auto",
        "Views of fusion=bilevel and shared; auto: id, or table where --init is not random, and "
        "every modality of the data set. Or, "
        "comma-separated: sum, mixture, mlp, gate, attention, "
        "cross_attention, id, the name of a modality of the data set, or table (the rows of "
        "the ID table as they are, where id maps and normalises them).",
    )
    width: int = choice(64, "Latent width d of the ID table and of every view.")
    init_scale: float = choice(0.1, "Standard deviation of the initial ID table.")
    router_hidden: int = choice(64, "Hidden width of a client's router.")
    history_weight: float = choice(
        0.0,
        "Weight c of an item's likeness to the client's history O in its score: f(v_i) + c <v_i, "
        "sum of v_j over j in O but i> / |O|. Above 0 there is no plan=dense.",
    )
    fedrap_repulsion: float = choice(
        0.01, "FedRAP: weight of pushing the personal rows away from the common ones."
    )
    fedrap_l1: float = choice(
        0.01, "FedRAP: weight of the L1 norm of the common rows, view by view."
    )

    def __post_init__(self):
        check_fields(self)
        names = self.views.split(",")
        if any(not name.strip() for name in names) or len(set(names)) != len(names):
            raise InputError(
                f"--views={self.views}: an empty or repeated name; give e.g. id,text,image"
            )
        check_range(self, "width", 1)
        check_range(self, "router_hidden", 1)
        for name in ("history_weight", "init_scale", "fedrap_repulsion", "fedrap_l1"):
            check_range(self, name, 0)
