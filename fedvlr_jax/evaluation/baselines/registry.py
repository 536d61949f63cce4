"""The baselines of a data set, and the settings that each tries on validation."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines.factors import ials, pure_svd
from fedvlr_jax.evaluation.baselines.linear import ease, ease_content, transitions
from fedvlr_jax.evaluation.baselines.model import Baseline, Setting
from fedvlr_jax.evaluation.baselines.neighbours import content_knn, item_knn, rp3beta
from fedvlr_jax.evaluation.baselines.trivial import TRIVIAL


def _grid(**values: tuple[Any, ...]) -> tuple[Setting, ...]:
    """All combinations of the values; the middle one is the default and comes first."""
    settings = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
    middle = settings.pop(len(settings) // 2)
    return (middle, *settings)


COLLABORATIVE = {
    "item_knn": Baseline(
        "Item-kNN",
        item_knn,
        "centralized",
        settings=_grid(own=(0.25, 0.5, 0.75), other=(0.25, 0.5, 0.75)),
        most_items=20_000,
    ),
    "rp3beta": Baseline(
        "RP3beta (random walks)",
        rp3beta,
        "centralized",
        settings=_grid(alpha=(0.5, 1.0, 1.5), beta=(0.3, 0.6, 0.9)),
        most_items=20_000,
    ),
    "puresvd": Baseline(
        "PureSVD",
        pure_svd,
        "centralized",
        settings=_grid(rank=(8, 16, 32, 48, 64, 96, 128, 192, 256)),
        most_items=20_000,
        most_entries=3_000_000,
    ),
    "ials": Baseline(
        "iALS (implicit alternating least squares)",
        ials,
        "centralized",
        settings=_grid(l2=(3.0, 10.0, 30.0), alpha=(1.0, 5.0, 20.0)),
        most_items=20_000,
        most_entries=3_000_000,
    ),
    "ease": Baseline(
        "EASE (linear autoencoder)",
        ease,
        "centralized",
        settings=_grid(l2=(1, 3, 10, 30, 100, 300, 1000, 3000, 10000)),
        most_items=10_000,
    ),
}
TRANSITIONS = Baseline(
    "Linear transitions (order of items)",
    transitions,
    "centralized",
    settings=_grid(l2=(100, 1000, 10_000), decay=(0.5, 0.7, 0.9)),
    most_items=10_000,
)
EASE_CONTENT = Baseline(
    "EASE + content",
    ease_content,
    "centralized",
    content=True,
    settings=_grid(l2=(30, 100, 300), content_weight=(0.3, 1.0, 3.0)),
    most_items=10_000,
)


def _content_knn(title: str, modalities: tuple[str, ...]) -> Baseline:
    return Baseline(
        title,
        functools.partial(content_knn, modalities=modalities),
        "client",
        content=True,
        settings=({"whitening": 0.0}, *({"whitening": step / 8} for step in range(1, 9))),
    )


def baselines_of(dataset: Dataset) -> dict[str, Baseline]:
    """Name -> baseline: trivial, collaborative, and for a data set with features content-based.

    "transitions" needs a data set with times.
    "content_knn_<modality>" uses one modality. If there are several, "content_knn_all" uses all.
    """
    found = {**TRIVIAL, **COLLABORATIVE}
    if dataset.train.has_times:
        found["transitions"] = TRANSITIONS
    for modality in dataset.features:
        title = f"Content-kNN ({modality})"
        found[f"content_knn_{modality}"] = _content_knn(title, (modality,))
    if len(dataset.features) > 1:
        found["content_knn_all"] = _content_knn(
            "Content-kNN (all features)", tuple(dataset.features)
        )
    if dataset.features:
        found["ease_content"] = EASE_CONTENT
    return found
