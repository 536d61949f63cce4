"""Tunes the baselines on validation; ranks and measures them as federated models are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.config import EvaluationConfig
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.data.pairs import Pairs, chunk_lists, in_part_order
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.baselines.model import Baseline, Model, Scorer, Setting, scores_of
from fedvlr_jax.evaluation.baselines.registry import baselines_of
from fedvlr_jax.evaluation.metrics import slices_of, summarise, user_metrics
from fedvlr_jax.evaluation.ranking import Ranks, count_ahead
from fedvlr_jax.evaluation.selection import resolve_selection
from fedvlr_jax.selection import OF_ALL, Selection
from fedvlr_jax.settings import compiled

MASKS = ("train", "train+valid")
# Upper bound on the bytes of one chunk of users: scores, masks and their copies.
CHUNK_BYTES = 1 << 28
# Maximum number of users whose validation targets select the setting of a baseline.
MOST_TUNING_USERS = 5_000

_count_ahead = compiled(count_ahead)


class BaselineResults(NamedTuple):
    """Results of `evaluate_baselines`, by name of the baseline.

    Attributes:
      summary: {"valid": ..., "test": ...} as `summarise` returns them, the setting selected on
        validation, such as "l2", and "title", "trained", "content" (see `Baseline`) and
        "settings_tried". A skipped baseline has {"title", "skipped": reason} instead.
      ranks: {"valid": Ranks, "test": Ranks} of all users, for paired tests. Skipped baselines are
        absent.
    """

    summary: dict[str, dict[str, Any]]
    ranks: dict[str, dict[str, Ranks]]


def rank(scorer: Scorer, dataset: Dataset, part: str, mask: str = "train+valid") -> Ranks:
    """Ranks every user's held-out items of `part` among all items, in chunks of users.

    Args:
      part: "valid" or "test".
      mask: the items that are not candidates at test: "train" or "train+valid". At validation the
        mask is always "train".

    Returns:
      `Ranks` of NumPy arrays: ahead, tied [P] in the order of the part, finite [N].

    Raises:
      InputError: an unknown mask, or a score that is not finite.
    """
    if mask not in MASKS:
        raise InputError(f"mask: found {mask!r}, expected one of {list(MASKS)}")
    held_out: Interactions = getattr(dataset, part)
    hidden = dataset.train.matrix
    if part == "test" and mask == "train+valid":
        hidden = hidden + dataset.valid.matrix
    chunk = max(1, CHUNK_BYTES // (24 * dataset.num_items))
    bounds = np.append(np.arange(0, dataset.num_users, chunk), dataset.num_users)
    (targets,) = chunk_lists([held_out], np.arange(dataset.num_users), bounds)
    chunks = []
    for number, users in enumerate(map(slice, bounds[:-1], bounds[1:])):
        scores = np.asarray(scorer(users), np.float32)
        masked = hidden[users].toarray() > 0
        own = Pairs(*(array[number] for array in targets.pairs))
        chunks.append(jax.device_get(_count_ahead(scores, own, masked)))
    finite = np.concatenate([ranks.finite for ranks in chunks])
    if not finite.all():
        raise InputError(
            f"{dataset.name}: the baseline's scores of user {int(np.argmin(finite))} are "
            "not finite; check that all item features are finite"
        )
    ahead, tied = (
        in_part_order(targets.entry, [getattr(ranks, name) for ranks in chunks], len(held_out))
        for name in ("ahead", "tied")
    )
    return Ranks(ahead, tied, finite)


def evaluate_baselines(
    dataset: Dataset,
    mask: str = "train+valid",
    ks: tuple[int, ...] = (10, 20, 50),
    *,
    tuned: bool = True,
    selection: Selection = OF_ALL,
) -> BaselineResults:
    """Tunes every baseline on validation, and measures it on validation and test.

    If the train part has recency weights, each personal baseline gets a variant "<name>_recent":
    the same fit scores the weighted histories. Each variant is tuned separately.

    Args:
      mask: "train" or "train+valid", see `rank`.
      ks: the cut-offs.
      tuned: True tries all settings of a baseline. False uses its default, and so does a data set
        without validation targets.
      selection: the metric and slice that select the setting. The first of equal settings wins.

    Raises:
      InputError: an unknown mask, or item features that are not finite.
    """
    results = BaselineResults({}, {})
    for name, baseline in baselines_of(dataset).items():
        if why := baseline.why_skipped(dataset):
            results.summary[name] = {"title": baseline.title, "skipped": why}
            continue
        fit = baseline.prepare(dataset)
        variants = (False, True) if _has_recent(baseline, dataset) else (False,)
        chosen = _choose(baseline, fit, dataset, variants, tuned, selection)
        for recent, (setting, tried) in zip(variants, chosen, strict=True):
            decay = setting.get("decay")
            scorer = scores_of(fit(**setting), dataset, recent=recent, decay=decay)
            ranks = {part: rank(scorer, dataset, part, mask) for part in ("valid", "test")}
            own_name = f"{name}_recent" if recent else name
            results.ranks[own_name] = ranks
            results.summary[own_name] = {
                **{
                    part: summarise(found.ahead, found.tied, dataset, part, ks)
                    for part, found in ranks.items()
                },
                **setting,
                "title": f"{baseline.title}, recent items first" if recent else baseline.title,
                "trained": baseline.trained,
                "content": baseline.content,
                "settings_tried": tried,
                "select": str(selection),
            }
    return results


def evaluate_as_config(dataset: Dataset, evaluation: EvaluationConfig) -> BaselineResults:
    """`evaluate_baselines` with the mask, cut-offs, tuning and selection of a configuration."""
    return evaluate_baselines(
        dataset,
        evaluation.mask,
        evaluation.cutoffs,
        tuned=evaluation.tune_baselines,
        selection=resolve_selection(evaluation.selection, dataset),
    )


# As `evaluate_as_config`.
Evaluate = Callable[[Dataset, EvaluationConfig], BaselineResults]


def evaluate_once() -> Evaluate:
    """`evaluate_as_config`, which evaluates each data set and each configuration once."""
    known: list[tuple[Dataset, EvaluationConfig, BaselineResults]] = []

    def evaluate(dataset: Dataset, evaluation: EvaluationConfig) -> BaselineResults:
        for known_dataset, by, results in known:
            if known_dataset is dataset and by == evaluation:
                return results
        known.append((dataset, evaluation, evaluate_as_config(dataset, evaluation)))
        return known[-1][-1]

    return evaluate


def _has_recent(baseline: Baseline, dataset: Dataset) -> bool:
    return baseline.has_recent and dataset.train.weight is not None


def _choose(
    baseline: Baseline,
    fit: Callable[..., Model],
    dataset: Dataset,
    variants: Sequence[bool],
    tuned: bool,
    selection: Selection,
) -> list[tuple[Setting, int]]:
    """For each variant (recent or not): its best setting on validation, and the number tried."""
    settings = baseline.settings
    if not tuned or len(settings) == 1 or not len(dataset.valid):
        return [(settings[0], 1) for _ in variants]
    sample = _sample(dataset)
    # Warm and cold are defined by the whole train part, not by the sample of users.
    select = slices_of(dataset.train, sample.valid)[selection.slice]
    values = np.full((len(settings), len(variants)), -np.inf)
    for row, setting in enumerate(settings):
        model = fit(**setting)
        for column, recent in enumerate(variants):
            scorer = scores_of(model, sample, recent=recent, decay=setting.get("decay"))
            found = rank(scorer, sample, "valid")
            metrics = user_metrics(
                found.ahead, found.tied, sample.valid, select, ks=(selection.cutoff,)
            )
            values[row, column] = np.nansum(metrics[selection.metric_name])
    return [(settings[best], len(settings)) for best in values.argmax(axis=0)]


def _sample(dataset: Dataset) -> Dataset:
    """The data set with at most MOST_TUNING_USERS evenly spaced users."""
    if dataset.num_users <= MOST_TUNING_USERS:
        return dataset
    users = np.linspace(0, dataset.num_users - 1, MOST_TUNING_USERS).astype(np.int64)
    return dataclasses.replace(
        dataset,
        **{part: getattr(dataset, part).of_users(users) for part in ("train", "valid", "test")},
        user_ids=dataset.user_ids[users],
        planted=None,
    )
