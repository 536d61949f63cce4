"""The interface of a baseline: it fits the train part, and its model scores histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from fedvlr_jax.data.dataset import Dataset

# Histories, float64 CSR [B, I] -> scores [B, I]. Models compute in float64, and the ranking rounds
# to float32, so scores that differ only by rounding errors tie.
Model = Callable[[sparse.csr_array], np.ndarray]
# Slice of B users -> scores [B, I].
Scorer = Callable[[slice], np.ndarray]
Setting = Mapping[str, Any]

# Maximum number of settings of a baseline, equal to the trials of each method in fedvlr table2.
BUDGET = 9


class Baseline(NamedTuple):
    """One baseline.

    Attributes:
      title: the full name, for tables.
      prepare: data set -> (setting -> model). It reads only train interactions and features, and
        does the work that all settings share once.
      trained: where the method can be computed. "centralized" needs all histories in one place;
        "federated" needs a sum over the clients; "client" needs one client's own history and
        public features; "none" needs no history.
      content: whether the method reads item features.
      settings: the settings tried on validation, at most BUDGET; the first is the default.
      personal: whether scores depend on the history. Only personal baselines have a variant that
        scores histories with recency weights, unless a setting "decay" already weights the items
        of the history that is scored, by decay^age.
      most_items, most_entries: the largest catalogue and train part that the method is run on, a
        bound on its time and memory; None: no limit.
    """

    title: str
    prepare: Callable[[Dataset], Callable[..., Model]]
    trained: str
    content: bool = False
    settings: tuple[Setting, ...] = ({},)
    personal: bool = True
    most_items: int | None = None
    most_entries: int | None = None

    @property
    def has_recent(self) -> bool:
        """Whether there is a variant that scores histories with recency weights."""
        return self.personal and "decay" not in self.settings[0]

    def why_skipped(self, dataset: Dataset) -> str | None:
        """The reason to skip a data set that is too large; None if it is small enough."""
        sizes = (
            ("items", dataset.num_items, self.most_items),
            ("train interactions", len(dataset.train), self.most_entries),
        )
        for noun, found, most in sizes:
            if most is not None and found > most:
                return f"{found} {noun}; {self.title} is evaluated up to {most}"
        return None


def scores_of(
    model: Model, dataset: Dataset, *, recent: bool = False, decay: float | None = None
) -> Scorer:
    """The scores that a model gives the users of a data set.

    Args:
      recent: score the histories with recency weights instead of the plain ones.
      decay: score the histories with the weights decay^age.
    """
    train = dataset.train
    if decay is not None:
        histories = train.decayed_matrix(decay)
    else:
        histories = train.weighted_matrix if recent else train.matrix
    return lambda users: model(histories[users])
