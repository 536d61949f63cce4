"""What a baseline is: a fit to the train part, and scores as a function of histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from fedvlr_jax.data.dataset import Dataset

# Histories, float64 CSR [B, I] -> scores [B, I]. Scores are computed in float64 and rounded to
# float32 when they are ranked: scores that differ by rounding errors alone tie.
Model = Callable[[sparse.csr_array], np.ndarray]
# Rows of a slice of users -> scores [B, I].
Scorer = Callable[[slice], np.ndarray]
Setting = Mapping[str, Any]

# Settings that a baseline may try on validation: as many as each method of fedvlr table2.
BUDGET = 9


class Baseline(NamedTuple):
    """One method.

    Attributes:
      title: its full name, for tables.
      prepare: data set -> (setting -> model). Reads train interactions and features only. Work
        that all settings share is done once.
      trained: where it can be computed. "centralized" needs all histories in one place;
        "federated" needs a sum over the clients; "client" needs one client's own history and
        public features; "none" needs no history.
      content: whether it reads item features.
      settings: what is tried on validation, at most BUDGET; the first is the default.
      personal: whether scores depend on the history. Only then is there a variant that scores
        the histories weighted by --recency.
      most_items, most_entries: sizes of the catalogue and of the train part beyond which it is
        skipped, for its time and memory; None: no limit.
    """

    title: str
    prepare: Callable[[Dataset], Callable[..., Model]]
    trained: str
    content: bool = False
    settings: tuple[Setting, ...] = ({},)
    personal: bool = True
    most_items: int | None = None
    most_entries: int | None = None

    def why_skipped(self, dataset: Dataset) -> str | None:
        """Why the data set is too large for it, in words; None where it is not."""
        sizes = (
            ("items", dataset.num_items, self.most_items),
            ("train interactions", len(dataset.train), self.most_entries),
        )
        for what, found, most in sizes:
            if most is not None and found > most:
                return f"{found} {what}; {self.title} is evaluated up to {most}"
        return None


def scores_of(model: Model, dataset: Dataset, *, recent: bool = False) -> Scorer:
    """The model's scores of the users of a data set.

    Args:
      recent: score the weighted histories, as --recency makes them. The fit is the same.
    """
    histories = dataset.train.weighted_matrix if recent else dataset.train.matrix
    return lambda users: model(histories[users])
