"""Where training begins."""

from __future__ import annotations

import dataclasses
import math

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

START_NAMES = ("random", "spectral", "ease")
START_ROUTER_NAMES = ("uniform", "history")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where training begins."""

    start: str = choice(
        "random",
        "random: everything is drawn; spectral: the ID table and the clients' vectors in closed "
        "form, by federated subspace iteration (fcf, pfedrec and fedrap, where an item's ID row "
        "is among its views); ease: the same of a low-rank EASE over histories and features.",
        START_NAMES,
    )
    start_router: str = choice(
        "uniform",
        "uniform: routers begin with equal weights; history: with what each client's own history "
        "says of its views, in closed form or by federated exchanges where one is the ID "
        "(fusion=bilevel, views among id, table and modalities).",
        START_ROUTER_NAMES,
    )
    start_topics: int = choice(
        64, "start_router=history: hidden topics of items that stand for the ID."
    )
    start_sharpness: float = choice(
        12.0, "start_router=history: how sharply an item speaks for those alike in a modality."
    )
    start_exchanges: int = choice(
        8, "start=spectral, ease: exchanges with all clients for one table."
    )
    start_user_power: float = choice(
        0.25, "start=spectral: a history counts as its length to the power of minus this."
    )
    start_item_power: float = choice(
        0.25, "start=spectral: an item counts as its number of clients to the power of minus this."
    )
    start_ridge: float = choice(
        10.0,
        "start=ease: ridge weight, in units of the mean diagonal of the matrix that is inverted.",
    )
    start_content: float = choice(
        -1.0,
        "start=ease: weight of the features beside the histories, in units of an item's mean "
        "number of clients; -1: chosen on validation.",
    )
    start_recency: float = choice(
        -1.0,
        "start=ease: as --recency, which it takes the place of, but -1: chosen on validation.",
    )
    start_shrinkage: float = choice(
        0.3, "start=spectral: ridge weight, in units of the mean squared singular value."
    )
    start_score: float = choice(
        3.0,
        "start=spectral, ease: mean score of a client's own items at the start, without what "
        "--history_weight adds.",
    )

    def __post_init__(self):
        check_fields(self)
        check_range(self, "start_topics", 1)
        check_range(self, "start_sharpness", 0, 100)
        check_range(self, "start_exchanges", 1)
        for name in ("start_user_power", "start_item_power"):
            check_range(self, name, 0, 1)
        check_range(self, "start_shrinkage", 0)
        check_range(self, "start_ridge", 0)
        for name, most in (("start_content", math.inf), ("start_recency", 2)):
            if getattr(self, name) != -1:
                check_range(self, name, 0, most)
        if not 0 < self.start_score < math.inf:
            raise InputError(f"--start_score={self.start_score}: give a finite number above 0")
