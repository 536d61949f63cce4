"""The ID table, the clients' vectors and their routers in closed form, before the first round.

With X the clients' histories as rows of zeros and ones, n_u the length of a history, c_i the
number of clients that have item i, and A = diag(n)^-p X diag(c)^-q, the right singular vectors of
A are found by subspace iteration, in which each client uses only its own row: the server sends
V [I, b] with orthonormal columns, client u answers a_u (x) (a_u V), which has rows for its own
items only, and the server orthonormalises the sum of the answers, A^T A V. After some exchanges
the Rayleigh-Ritz step on the last one gives singular values s and V [I, d]. The clients then score
with

    D_i = c_i^q sqrt(f) V_i,    theta_u = sqrt(f) V^T a_u,    f = s^2 / (s^2 + l mean(s^2)),

the ridge regression of a history on its own projection: PureSVD (Cremonesi et al. 2010)
with shrunken directions. The counts c are one more sum over the clients, and so is the mean score
that sets the scale. An answer is non-zero on the client's history, so a single answer reveals the
history: the sums must be secure ones. All clients take part, whatever --cohort and
--client_dropout.

A router can begin with weights estimated from the client's history (`preferences.py`), whether or
not training begins with the table. On synthetic data it can begin with the weights that the
generator drew, which no client knows: a reference for every estimate.

Here the sums are taken in float64 on the host; they are the same for every seed. Under central
privacy they have noise, which depends on the seed; see `private_initialization.py` and
`private_ease.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.config import Config, InitConfig
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.federated.ease_settings import (
    Ease,
    Wanted,
    ease_initialization,
    tried_models,
    tried_transitions,
)
from fedvlr_jax.federated.ials import num_factors
from fedvlr_jax.federated.model import Model
from fedvlr_jax.federated.preferences import preferences
from fedvlr_jax.federated.private_ease import SQUARES, private_ease_initialization
from fedvlr_jax.federated.private_initialization import (
    own_scale,
    private_spectral_initialization,
)
from fedvlr_jax.federated.subspace import OVERSAMPLING, leading
from fedvlr_jax.machine import budget_within, gigabytes, memory_limit

# The smallest planted weight of a router. The logarithm of some drawn weights is so small that the
# router would not move.
LEAST_PLANTED = 1e-3
# Arrays that exist at once: of the subspace iteration, one row for each item; one row for each
# client, without and with the step to the next item.
ITEM_BASES, CLIENT_BASES, STEP_BASES = 5, 2, 3


class Initialization(NamedTuple):
    """The values that training begins with; all others are drawn.

    Attributes:
      items: float32 [I, d], the ID table, or None; rows of items without an interaction are 0,
        unless their content or the noise of central privacy gives them a row.
      clients: {"vector": float32 [N, d], the clients' vectors; "logits": float32 [N, G], of their
        routers' weights}, or one of them.
      recency: float64 [], the exponent that weighs the histories in training; 0 for no weights.
      content: float64 [], the weight of the features; 0 where none are used.
      normalization: float64 [], see `ease.py`.
      ials: float64 [2], the columns of iALS and its l2, see `ials.py`; zeros without iALS.
      transitions: float64 [], the weight of the next items, see `transitions.py`.
    """

    items: np.ndarray | None
    clients: dict[str, np.ndarray]
    recency: np.float64 = np.float64(0)
    content: np.float64 = np.float64(0)
    normalization: np.float64 = np.float64(0)
    ials: np.ndarray = np.zeros(2)
    transitions: np.float64 = np.float64(0)


def make_initialization(config: Config, model: Model, dataset: Dataset) -> Initialization | None:
    """The values of --init and --init_router; None where everything is drawn.

    Raises:
      InputError: the model cannot hold them, or they would be wrong for this federation.
    """
    init, names, train = config.init, model.fusion.names, dataset.train
    if init.init == "random" and init.init_router == "uniform":
        return None
    check_initialization(config, model, dataset)
    weights, clients = np.full((1, len(names)), 1 / len(names)), {}
    if init.init_router != "uniform":
        weights = _router_weights(config, names, dataset)
        clients["logits"] = np.log(weights).astype(np.float32)
    if init.init == "random":
        return Initialization(None, clients)
    private = config.privacy.privacy != "none"
    found = _closed_form(init, model.width, dataset, config.run.seed, private=private)
    items, vectors, ials = found.items, found.vectors, np.zeros(2)
    if found.ials is not None:
        ials = np.array([num_factors(train, model.width, found.ials.parts), found.ials.l2])
    # All other views start at zero, so only the ID table contributes, by its weight.
    table_weight = weights[:, names.index("table") if "table" in names else 0, None]
    table_weight = table_weight * model.fusion.table_weight
    # The mean weight scales the table, not the vectors: a client's step then changes the scores as
    # much as without other views.
    mean_weight = np.mean(table_weight)
    # The weighted table gets the scale of a drawn one; the scores do not change.
    size = np.sqrt(np.mean(np.square(items)))
    items, vectors = items / size, vectors * size
    scale = model.init_scale or 1.0
    to_score: np.ndarray | np.float64
    if private:
        to_score = init.init_score * own_scale(train, items, vectors)
    else:
        to_score = _joint_scale(train, items, vectors, init.init_score)
    with np.errstate(over="ignore"):
        items = (items * (scale / mean_weight)).astype(np.float32)
        vectors = (vectors * (to_score / scale) * (mean_weight / table_weight)).astype(np.float32)
    _check_finite(init, model, items, vectors)
    return Initialization(
        items,
        {"vector": vectors, **clients},
        np.float64(found.recency),
        np.float64(found.content),
        np.float64(found.normalization),
        ials,
        np.float64(found.transitions),
    )


def _closed_form(
    init: InitConfig, width: int, dataset: Dataset, seed: int, *, private: bool
) -> Ease:
    """The table, the vectors and the settings of --init=ease or spectral."""
    train = dataset.train
    if init.init == "ease":
        wanted, multiplier = Wanted.of(init), init.init_noise_multiplier
        if not private:
            return ease_initialization(dataset, width, wanted)
        return private_ease_initialization(dataset, width, wanted, multiplier=multiplier, seed=seed)
    if private:
        items, vectors = private_spectral_initialization(
            train,
            width,
            exchanges=init.init_exchanges,
            multiplier=init.init_noise_multiplier,
            shrinkage=init.init_shrinkage,
            seed=seed,
        )
    else:
        items, vectors = spectral_initialization(
            train,
            width,
            exchanges=init.init_exchanges,
            user_power=init.init_user_power,
            item_power=init.init_item_power,
            shrinkage=init.init_shrinkage,
        )
    return Ease(items, vectors, 0.0, 0.0, 0.0, None, 0.0)


def _joint_scale(
    train: Interactions, items: np.ndarray, vectors: np.ndarray, score: float
) -> np.float64:
    """The factor of all vectors that makes the mean score of the histories `score`.

    NaN where no factor above 0 does.
    """
    # Summed by item first: a product of the two rows of each entry would take d numbers an entry.
    own = np.sum((train.matrix.T @ vectors) * items)
    return score * len(train) / own if own > 0 else np.float64(np.nan)


def _check_finite(init: InitConfig, model: Model, items: np.ndarray, vectors: np.ndarray) -> None:
    """Raises InputError for an initialization that float32 does not hold."""
    if np.isfinite(items).all() and np.isfinite(vectors).all():
        return
    strength = f"init_shrinkage={init.init_shrinkage}"
    if init.init == "ease":
        strength = f"init_ridge={init.init_ridge}"
    raise InputError(
        f"--init={init.init}: not finite in float32 with --init_score={init.init_score}"
        f", --{strength} and --init_scale={model.init_scale}; give moderate ones"
    )


def sources_of(views: Sequence[str]) -> list[str]:
    """The source of each view: "id" for the views of the ID table, else the view's own name."""
    return ["id" if view in ("id", "table") else view for view in views]


def _router_weights(config: Config, views: Sequence[str], dataset: Dataset) -> np.ndarray:
    """float64 [N, G]: each client's weights by --init_router.

    Views of one source share its weight.
    """
    source_of = sources_of(views)
    sources = ["id"] * ("id" in source_of)
    sources += [name for name in dataset.features if name in source_of]
    if config.init.init_router == "planted":
        found = _planted_weights(dataset, sources)
    else:
        found = preferences(
            dataset.train,
            [dataset.features[name] for name in sources if name != "id"],
            sharpness=config.init.init_sharpness,
            topics=config.init.init_topics if "id" in sources else 0,
        )
    if config.init.init_router == "mean":
        found = np.tile(np.mean(found, axis=0), (len(found), 1))
    sharing = [source_of.count(name) for name in source_of]
    return found[:, [sources.index(name) for name in source_of]] / sharing


def planted_columns(dataset: Dataset, sources: Sequence[str]) -> np.ndarray:
    """float32 [N, S]: the generator's weights of these sources; NaN for a source that it lacks."""
    planted, known = dataset.planted, ("id", *dataset.features)
    assert planted is not None
    nothing = np.full(len(planted), np.nan, np.float32)
    columns = [planted[:, known.index(name)] if name in known else nothing for name in sources]
    return np.stack(columns, axis=1)


def _planted_weights(dataset: Dataset, sources: Sequence[str]) -> np.ndarray:
    """float64 [N, S]: the generator's weights of these sources, each client's sum to one.

    Raises:
      InputError: the data set has none.
    """
    if dataset.planted is None:
        raise InputError(
            f"--init_router=planted: {dataset.name} has no planted weights; those that have are "
            "--dataset=synthetic with --synthetic_kind=planted or additive"
        )
    chosen = np.maximum(planted_columns(dataset, sources).astype(np.float64), LEAST_PLANTED)
    return chosen / chosen.sum(axis=1, keepdims=True)


def spectral_initialization(
    train: Interactions,
    width: int,
    *,
    exchanges: int,
    user_power: float,
    item_power: float,
    shrinkage: float,
) -> tuple[np.ndarray, np.ndarray]:
    """D [I, d] and theta [N, d] of the module's docstring, float64.

    Columns beyond the rank of the histories are 0, but for rounding.
    """
    user_weight = np.maximum(train.counts, 1.0) ** -user_power
    item_weight = np.maximum(train.item_counts, 1.0) ** -item_power
    scaled = lambda matrix: (matrix * user_weight[:, None] * item_weight[None, :]).tocsr()
    rows = scaled(train.matrix)
    columns = min(width + OVERSAMPLING, *rows.shape)
    exchanged = lambda basis: rows.T @ (rows @ basis)
    squares, directions = leading(
        exchanged, train.num_items, columns, exchanges=exchanges, width=width
    )
    kept = np.sqrt(squares / (squares + shrinkage * np.mean(squares) + 1e-12 * squares[0]))
    items = directions / item_weight[:, None] * kept
    # Exact zeros, where the exchanges leave rounding errors: these items tie.
    items[train.item_counts == 0] = 0.0
    missing = ((0, 0), (0, width - len(kept)))
    # A client's own row of A, its items weighted as in its training.
    own = rows if train.weight is None else scaled(train.weighted_matrix)
    return np.pad(items, missing), np.pad((own @ directions) * kept, missing)


def check_initialization(config: Config, model: Model, dataset: Dataset) -> None:
    """Raises InputError if the model or the federation does not allow the initialization."""
    init, fusion = config.init, model.fusion
    closed = init.init != "random"
    if not closed and init.init_router == "uniform":
        return
    given = f"--init={init.init}" if closed else f"--init_router={init.init_router}"
    if closed or init.init_router != "planted":
        _check_exchanges(config, given)
    if init.init_router == "planted" and config.attack.attack != "none":
        raise InputError(
            "--init_router=planted: the generator draws no weights for hostile clients; give "
            f"another value, or --attack=none in place of {config.attack.attack}"
        )
    backbone_named, fusion_named = _named(config, model)
    if closed and not model.has_private_vector:
        raise InputError(
            f"{given}: {backbone_named} has no private vector for an item's row; those that have "
            "are fcf, pfedrec and fedrap"
        )
    if closed and fusion.zero_content_views is None:
        raise InputError(
            f"{given}: {fusion_named} hides the rows of the ID table; use none, vbpr, or "
            "bilevel with the views table and names of modalities, as --views=table,text,image"
        )
    if init.init == "ease" and init.init_ials == 1 and model.width < 4:
        raise InputError(
            f"--init_ials=1: has a quarter of --width={model.width}; give a width of at least 4"
        )
    if init.init == "ease" and config.data.recency and init.init_recency > 0:
        raise InputError(
            f"--init_recency={init.init_recency}: the histories are weighted already, by "
            f"--recency={config.data.recency}; give one of them"
        )
    if init.init == "ease":
        _check_data(init, dataset)
    if closed:
        _check_memory(config, model, dataset)
    sources = {"id", "table", *dataset.features}
    if init.init_router != "uniform" and (fusion.set_logits is None or {*fusion.names} - sources):
        raise InputError(
            f"--init_router={init.init_router}: {fusion_named} has no router over single sources; "
            f"use bilevel with views among {', '.join(sorted(sources))}"
        )


def _named(config: Config, model: Model) -> tuple[str, str]:
    """The backbone and the fusion of a message."""
    chosen = config.model
    fusion = f"--fusion={chosen.fusion}"
    if chosen.fusion in ("shared", "bilevel"):
        fusion += f" --views={chosen.views}"
    return (
        "your own backbone" if "backbone" in model.own else f"--backbone={chosen.backbone}",
        "your own fusion" if "fusion" in model.own else fusion,
    )


def _check_data(init: InitConfig, dataset: Dataset) -> None:
    """Raises InputError for a given setting of --init=ease that cannot act on this data set."""
    if init.init_content > 0 and not dataset.features:
        raise InputError(
            f"--init_content={init.init_content}: the data set {dataset.name!r} has no item "
            "features; leave it out"
        )
    for name in ("init_recency", "init_transitions"):
        if getattr(init, name) > 0 and not dataset.train.has_times:
            raise InputError(
                f"--{name}={getattr(init, name)}: the data set {dataset.name!r} has no time stamps "
                "to order items by; leave it out"
            )


def _check_memory(config: Config, model: Model, dataset: Dataset) -> None:
    """Raises InputError if the host cannot hold the arrays of a closed form."""
    init = config.init
    tables, client_bases = 1, CLIENT_BASES
    if init.init == "ease":
        wanted = Wanted.of(init)
        tables = len(tried_models(dataset, wanted.content, wanted.normalization))
        if config.privacy.privacy == "none" and any(tried_transitions(dataset, wanted.transitions)):
            client_bases = STEP_BASES
    basis = model.width + OVERSAMPLING
    numbers = dataset.num_items * (tables * model.width + ITEM_BASES * basis)
    numbers += dataset.num_users * client_bases * basis
    numbers += dataset.num_items * sum(rows.shape[1] for rows in dataset.features.values())
    advice = "give a smaller --width"
    if init.init == "ease" and config.privacy.privacy != "none":
        numbers += SQUARES * dataset.num_items**2
        advice = "give --init=spectral"
    budget = budget_within(memory_limit(), config.run.memory_budget_gb)
    if 8 * numbers > budget.size:
        raise InputError(
            f"--init={init.init}: needs about {gigabytes(8 * numbers)} with {dataset.num_items} "
            f"items and --width={model.width}, of {budget}; {advice}, or --init=random"
        )


def _check_exchanges(config: Config, given: str) -> None:
    """Raises InputError if the federation does not allow exchanges with all clients."""
    private = _check_private(config, given)
    if config.federation.aggregation not in ("float32", "int32") and not private:
        raise InputError(
            f"{given}: its exchanges are plain sums, so it does not support "
            f"--aggregation={config.federation.aggregation}; give --init=random"
        )
    if config.federation.server_optimizer == "none":
        raise InputError(
            f"{given}: learns from all clients, which --server_optimizer=none excludes"
        )


def _check_private(config: Config, given: str) -> bool:
    """Whether the exchanges are those of central privacy.

    Raises:
      InputError: the exchanges carry neither the bound nor the noise that the flags ask for.
    """
    init, privacy = config.init, config.privacy
    supported = init.init != "random" and init.init_router == "uniform"
    private = privacy.privacy == "central" and supported and not privacy.noise_cohort_size
    if not private and (privacy.clip_norm or privacy.privacy != "none"):
        raise InputError(
            f"{given}: its exchanges carry neither --clip_norm nor noise; use --init=random, or "
            "--init=ease or spectral with --privacy=central, --init_router=uniform and "
            "--noise_cohort_size=0"
        )
    if private:
        _check_private_settings(init)
    return private


def _check_private_settings(init: InitConfig) -> None:
    """Raises InputError for settings that need an exchange without noise."""
    default = InitConfig()
    refused = {}
    if init.init == "spectral":
        why = "every answer has length 1 and all items weigh the same"
        refused = {
            name: why
            for name in ("init_user_power", "init_item_power")
            if getattr(init, name) != getattr(default, name)
        }
    else:
        reasons = {
            "init_normalization": "it needs the counts of the items, which are not released",
            "init_ials": "the sweeps of iALS have no noise",
            "init_transitions": "the sums over successive items have no noise",
        }
        refused = {name: why for name, why in reasons.items() if getattr(init, name) > 0}
    for name, why in refused.items():
        raise InputError(
            f"--{name}={getattr(init, name)}: under --privacy=central {why}; leave it out"
        )
