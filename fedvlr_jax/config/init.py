"""Where training begins."""

from __future__ import annotations

import dataclasses
import math

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

INIT_NAMES = ("random", "spectral", "ease")
INIT_ROUTER_NAMES = ("uniform", "history")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where training begins."""

    init: str = choice(
        "random",
        "random: everything is drawn; spectral: the ID table and the clients' vectors in closed "
        "form, by federated subspace iteration (fcf, pfedrec and fedrap, where an item's ID row "
        "is among its views); ease: the same of a low-rank EASE over histories and features.",
        INIT_NAMES,
    )
    init_router: str = choice(
        "uniform",
        "uniform: routers begin with equal weights; history: with what each client's own history "
        "says of its views, in closed form or by federated exchanges where one is the ID "
        "(fusion=bilevel, views among id, table and modalities).",
        INIT_ROUTER_NAMES,
    )
    init_topics: int = choice(
        64, "init_router=history: hidden topics of items that stand for the ID."
    )
    init_sharpness: float = choice(
        12.0, "init_router=history: how sharply an item speaks for those alike in a modality."
    )
    init_exchanges: int = choice(
        8, "init=spectral, ease: exchanges with all clients for one table."
    )
    init_user_power: float = choice(
        0.25, "init=spectral: a history counts as its length to the power of minus this."
    )
    init_item_power: float = choice(
        0.25, "init=spectral: an item counts as its number of clients to the power of minus this."
    )
    init_ridge: float = choice(
        10.0,
        "init=ease: ridge weight, in units of the mean diagonal of the matrix that is inverted.",
    )
    init_content: float = choice(
        -1.0,
        "init=ease: weight of the features beside the histories, in units of an item's mean "
        "number of clients; -1: chosen on validation.",
    )
    init_recency: float = choice(
        -1.0,
        "init=ease: as --recency, which it takes the place of, but -1: chosen on validation.",
    )
    init_shrinkage: float = choice(
        0.3, "init=spectral: ridge weight, in units of the mean squared singular value."
    )
    init_score: float = choice(
        3.0,
        "init=spectral, ease: mean score of a client's own items at the start, without what "
        "--history_weight adds.",
    )

    def __post_init__(self):
        check_fields(self)
        check_range(self, "init_topics", 1)
        check_range(self, "init_sharpness", 0, 100)
        check_range(self, "init_exchanges", 1)
        for name in ("init_user_power", "init_item_power"):
            check_range(self, name, 0, 1)
        check_range(self, "init_shrinkage", 0)
        check_range(self, "init_ridge", 0)
        for name, most in (("init_content", math.inf), ("init_recency", 2)):
            if getattr(self, name) != -1:
                check_range(self, name, 0, most)
        if not 0 < self.init_score < math.inf:
            raise InputError(f"--init_score={self.init_score}: give a finite number above 0")
