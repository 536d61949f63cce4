"""Initial values of the parameters."""

from __future__ import annotations

import dataclasses
import math

from fedvlr_jax.config.fields import check_fields, check_range, choice
from fedvlr_jax.errors import InputError

INIT_NAMES = ("auto", "random", "spectral", "ease")
INIT_ROUTER_NAMES = ("uniform", "history", "mean", "planted")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Initial values of the parameters."""

    init: str = choice(
        "auto",
        "Initial ID table and user vectors. random: drawn at random; spectral: in closed form, by "
        "federated subspace iteration over the histories; ease: in closed form, from a low-rank "
        "EASE over histories and features. The closed forms support fcf, pfedrec and fedrap, and "
        "need the ID table among the views and sums over all clients. auto: ease if the backbone "
        "and the views support it, all clients take part in every round, and their uploads are "
        "plain sums without clipping, noise, compression, attack or groups; else random.",
        INIT_NAMES,
    )
    init_router: str = choice(
        "uniform",
        "Initial weights of the routers. uniform: equal weights; history: weights that each "
        "client estimates from its own history, in closed form, or by federated exchanges if the "
        "ID is among the views; mean: the mean of these weights over all clients, for every "
        "client, which is the control of history; planted: the weights that the generator of "
        "synthetic data drew for each user, as a perfect estimate would have them. All but "
        "uniform need fusion=bilevel with the views id, table or modalities.",
        INIT_ROUTER_NAMES,
    )
    init_topics: int = choice(
        64, "init_router=history, mean: number of latent topics of items that model the ID."
    )
    init_sharpness: float = choice(
        12.0,
        "init_router=history, mean: inverse temperature of the similarity of two items in a "
        "modality.",
    )
    init_exchanges: int = choice(
        8, "init=spectral, ease: number of exchanges with all clients to compute one table."
    )
    init_user_power: float = choice(
        0.25, "init=spectral: weight of a history = its length to the power of minus this."
    )
    init_item_power: float = choice(
        0.25, "init=spectral: weight of an item = its number of clients to the power of minus this."
    )
    init_ridge: float = choice(
        10.0,
        "init=ease: ridge weight, relative to the mean diagonal of the inverted matrix.",
    )
    init_content: float = choice(
        -1.0,
        "init=ease: weight of the features, relative to the mean number of clients of an item. "
        "-1: selected on validation.",
    )
    init_normalization: float = choice(
        -1.0,
        "init=ease: exponent that lessens the weight of long histories and of popular items. 0: "
        "none. -1: selected on validation.",
    )
    init_recency: float = choice(
        -1.0,
        "init=ease: decay of the weight of older items, as --recency. -1: selected on validation. "
        "Give it in place of --recency.",
    )
    init_ials: int = choice(
        -1,
        "init=ease: 1: the initial scores are the mean of those of the autoencoder and of implicit "
        "alternating least squares, which has a quarter or a half of --width, as selected on "
        "validation; without validation a quarter. 0: the autoencoder alone. -1: selected on "
        "validation.",
    )
    init_transitions: float = choice(
        -1.0,
        "init=ease: weight of the initial scores of the items that follow a client's recent ones, "
        "relative to its other scores. 0: none. -1: selected on validation.",
    )
    init_noise_multiplier: float = choice(
        0.0,
        "init=spectral, ease with --privacy=central: standard deviation of the noise on each "
        "exchange, as a multiple of the length of one client's answer. 0: the exchanges alone "
        "spend half (spectral) or 90 % (ease) of --target_epsilon; without a target, the value of "
        "--noise_multiplier.",
    )
    init_shrinkage: float = choice(
        0.3, "init=spectral: ridge weight, relative to the mean squared singular value."
    )
    init_score: float = choice(
        3.0,
        "init=spectral, ease: initial mean score of a client's own items, before --history_weight "
        "adds to it.",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_range(self, "init_topics", 1)
        check_range(self, "init_sharpness", 0, 100)
        check_range(self, "init_exchanges", 1)
        for name in ("init_user_power", "init_item_power"):
            check_range(self, name, 0, 1)
        check_range(self, "init_shrinkage", 0)
        check_range(self, "init_noise_multiplier", 0)
        if self.init_noise_multiplier and self.init == "random":
            raise InputError(
                f"--init_noise_multiplier={self.init_noise_multiplier}: --init=random has no "
                "exchange with noise; give --init=ease or spectral, or 0"
            )
        check_range(self, "init_ridge", 0)
        for name, most in (
            ("init_content", 1e6),
            ("init_normalization", 1),
            ("init_recency", 2),
            ("init_transitions", 1e6),
        ):
            if getattr(self, name) != -1:
                check_range(self, name, 0, most)
        check_range(self, "init_ials", -1, 1)
        if not 0 < self.init_score < math.inf:
            raise InputError(f"--init_score={self.init_score}: give a finite number above 0")
