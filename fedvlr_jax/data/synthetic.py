"""Synthetic data in which every user has known weights over id, text and image.

`clusters.py` has the kinds with clusters of items, `additive.py` the kind without.
"""

from __future__ import annotations

import numpy as np

from fedvlr_jax.config import SYNTHETIC_KINDS as KINDS
from fedvlr_jax.data import additive, clusters, splits
from fedvlr_jax.data.clusters import Catalogue
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.synthetic_parts import FEWEST_ITEMS_A_USER, SOURCES, planted_weights
from fedvlr_jax.errors import InputError


def generate(
    *,
    kind: str = "planted",
    users: int = 1000,
    items: int = 2000,
    seed: int = 0,
    mean_history: float = 20,
    text_width: int = 48,
    image_width: int = 64,
) -> Dataset:
    """Generates a data set, split leave-one-out in draw order.

    Args:
      kind: "planted" (`clusters.py`), or a control. "additive": the weights act in
        another form, without clusters (`additive.py`). "equal": all users have equal weights over
        the sources, so the weights are not personal. "no-content": the features show other
        clusters than the interactions.
      users: number of users, 10 to 10 million. Time and memory grow with users * mean_history and
        with items; no array has users x items entries. A million users take about a minute.
      items: size of the catalogue, 50 to 10 million.
      seed: in [0, 2**64).
      mean_history: mean history length before clipping, 5 to 10000. Lengths are log-normal, at
        least 5 and at most a quarter of the catalogue. Users who exhaust their clusters have
        shorter histories.
      text_width, image_width: columns of the features, 2 to 16384.

    Returns:
      A data set with `features` "text" and "image" (float32, rows of unit norm),
      `planted` float32 [users, 3] over ("id", "text", "image"), each row drawn from
      Dirichlet(1/2, 1/2, 1/2). `planted` is None for the kinds "equal" and "no-content", where a
      router has nothing to learn. Times count the draws of each user from 0.

    Raises:
      InputError: an argument is out of range; the message names it.
    """
    _whole("users", users, least=10, most=10**7)
    _whole("items", items, least=50, most=10**7)
    _whole("seed", seed, least=0, most=2**64 - 1)
    _whole("text_width", text_width, least=2, most=2**14)
    _whole("image_width", image_width, least=2, most=2**14)
    _check_mean_history(mean_history)
    if kind not in KINDS:
        raise InputError(f"synthetic kind: found {kind!r}, expected one of {', '.join(KINDS)}")
    planted = planted_weights(seed, users)
    if kind == "equal":
        planted = np.full_like(planted, 1 / len(SOURCES))
    widths = {"text": text_width, "image": image_width}
    if kind == "additive":
        parts = additive.interactions(seed, items, planted, mean_history)
        features = {
            name: additive.features(seed, items, SOURCES.index(name), width)
            for name, width in widths.items()
        }
    else:
        catalogue = Catalogue(seed, items)
        parts = clusters.interactions(seed, catalogue, planted, mean_history)
        # With another seed, the clusters of the features are independent of the interactions.
        feature_seed = (seed + 1) % 2**64 if kind == "no-content" else seed
        shown = catalogue if feature_seed == seed else Catalogue(feature_seed, items)
        features = {
            name: clusters.features(
                feature_seed, SOURCES.index(name), shown.cluster_of(name), width
            )
            for name, width in widths.items()
        }
    has_truth = kind in ("planted", "additive")
    return Dataset(
        name="synthetic",
        train=parts[splits.TRAIN],
        valid=parts[splits.VALID],
        test=parts[splits.TEST],
        features=features,
        user_ids=np.arange(users).astype(f"U{len(str(users))}"),
        item_ids=np.arange(items).astype(f"U{len(str(items))}"),
        split="leave-one-out",
        notes=(f"synthetic: kind {kind}, seed {seed}",),
        planted=planted.astype(np.float32) if has_truth else None,
    )


def _whole(name: str, value: int, *, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"synthetic {name}: found {value!r}, expected a whole number")
    if not least <= value <= most:
        raise InputError(f"synthetic {name}: found {value}, expected one in [{least}, {most}]")


def _check_mean_history(value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InputError(f"synthetic mean_history: found {value!r}, expected a number")
    if not FEWEST_ITEMS_A_USER <= value <= 10_000:
        raise InputError(
            f"synthetic mean_history: found {value}, expected one in [{FEWEST_ITEMS_A_USER}, 10000]"
        )
