"""The backbone, the fusion, and their sizes."""

from __future__ import annotations

import dataclasses

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError
from fedvlr_jax.registry import BACKBONES, FUSIONS, OPERATORS, described

BACKBONE_NAMES = tuple(BACKBONES)
FUSION_NAMES = tuple(FUSIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, the fusion that feeds it, and their sizes."""

    backbone: str = choice(
        "fcf",
        "Backbone: which parameters are shared or private, and how they score an item. "
        f"{described(BACKBONES)}.",
        BACKBONE_NAMES,
    )
    fusion: str = choice(
        "bilevel",
        f"Fusion of an item's views into one vector. {described(FUSIONS)}.",
        FUSION_NAMES,
    )
    views: str = choice(
        "auto",
        "Views of fusion=bilevel and shared. auto: id and every modality of the data set; with a "
        f"closed-form --init, table in place of id. Or a comma-separated list of "
        f"{', '.join(OPERATORS)}, id (the ID table, mapped and normalised), table (the ID table "
        "itself) and names of modalities.",
    )
    width: int = choice(
        0,
        "Latent width d of the ID table and of every view. 0: 128 with a closed-form --init, "
        "else 64.",
    )
    init_scale: float = choice(0.1, "Standard deviation of the initial ID table.")
    router_hidden: int = choice(64, "Hidden width of a client's router.")
    history_weight: float = choice(
        0.0,
        "Weight c of the similarity of an item to the client's history O in its score: f(v_i) + "
        "c <v_i, sum of v_j over j in O, j != i> / |O|. plan=dense supports only 0.",
    )
    fedavg_rows: str = choice(
        "shared",
        "FedAvg: item rows with which a client scores. shared: those of the server; tuned: the "
        "client fine-tunes them in each round, and ranks with its own rows, as with PFedRec.",
        ("shared", "tuned"),
    )
    fedrap_repulsion: float = choice(
        0.01, "FedRAP: weight of the distance between personal and common rows, which it rewards."
    )
    fedrap_l1: float = choice(
        0.01, "FedRAP: weight of the L1 penalty on the common rows of each view."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        names = self.views.split(",")
        if any(not name.strip() for name in names) or len(set(names)) != len(names):
            raise InputError(
                f"--views={self.views}: has an empty or repeated name; give e.g. id,text,image"
            )
        check_range(self, "width", 0)
        if self.backbone == "fedncf" and 0 < self.width < 4:
            raise InputError(
                f"--width={self.width}: the last layer of --backbone=fedncf has width / 4 outputs; "
                "give at least 4"
            )
        check_range(self, "router_hidden", 1)
        for name in ("history_weight", "init_scale", "fedrap_repulsion", "fedrap_l1"):
            check_range(self, name, 0)
