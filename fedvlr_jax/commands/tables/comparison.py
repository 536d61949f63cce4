"""Compares finished runs: means over seeds, intervals and paired tests over users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.commands.one_run.finished import validation
from fedvlr_jax.config import EvaluationConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines import Evaluate, evaluate_as_config
from fedvlr_jax.evaluation.metrics import slices, user_metrics
from fedvlr_jax.evaluation.selection import judged_slice
from fedvlr_jax.evaluation.significance import bootstrap_interval, holm, paired_test
from fedvlr_jax.privacy.statement import best_epsilon
from fedvlr_jax.report import RunDirectory
from fedvlr_jax.selection import selection_of

# Baselines that these tables omit. The report of each run has them.
NOT_SHOWN = ("random", "least_popular", "ascending_id", "unseen_first")


# Facts of a baseline that its line has.
BASELINE_FACTS = ("title", "trained", "content", "settings_tried")

SHOWN_METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20", "hr@50", "ndcg@50")


class Compared(NamedTuple):
    """Runs that differ only in their seed.

    Attributes:
      line: the values of their table line, percentages unrounded. "ci95" is None if no user has
        a target in the judged slice.
      ndcg: float64 [N], test NDCG@50 in [0, 1] on the judged slice, averaged over seeds;
        NaN for a user without a target in the slice.
    """

    line: dict[str, Any]
    ndcg: np.ndarray


def read_choice(label: str, folders: Sequence[Path], dataset: Dataset) -> Compared | None:
    """Compares the finished runs in the folders; None if no run has finished."""
    finished = [RunDirectory.open(f) for f in folders if (f / "summary.json").exists()]
    if not finished:
        return None
    summaries = [directory.read_summary() for directory in finished]
    users = [directory.read_users() for directory in finished]
    ranks = [_test_ranks(of_run, dataset) for of_run in users]
    compared = compare_summaries(label, summaries, ranks, dataset)
    compared.line["rounds"] = float(np.mean([s["selected_round"] for s in summaries]))
    spearman = [s["planted_spearman"] for s in summaries if s.get("planted_spearman")]
    if spearman:
        compared.line["spearman"] = {
            n: float(np.mean([s[n] for s in spearman])) for n in spearman[0]
        }
    return compared


def _test_ranks(users: Mapping[str, np.ndarray], dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(ahead, tied) int [P], in the order of the test part, from the arrays of users.npz."""
    ahead, tied = users["ahead"], users["tied"]
    if ahead.ndim == 2:
        # Earlier versions wrote [N, T], padded to the user with most targets.
        real = np.arange(ahead.shape[1]) < dataset.test.counts[:, None]
        ahead, tied = ahead[real], tied[real]
    return ahead, tied


def different_runs(ranks: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """The first index of each different result: seeds of a deterministic run count as one."""
    first: dict[tuple[bytes, ...], int] = {}
    for place, found in enumerate(ranks):
        key = tuple(np.ascontiguousarray(array, np.int64).tobytes() for array in found)
        first.setdefault(key, place)
    return sorted(first.values())


def compare_summaries(
    label: str,
    summaries: Sequence[Mapping[str, Any]],
    ranks: Sequence[tuple[np.ndarray, np.ndarray]],
    dataset: Dataset,
) -> Compared:
    """Compares the runs of one choice over seeds. Runs with equal test ranks count once.

    Args:
      summaries: one per seed, with "valid" and "test".
      ranks: one (ahead, tied) of the test part per seed.
    """
    places = different_runs(ranks)
    judged = judged_slice(dataset)
    select = slices(dataset, "test")[judged]
    ndcg = [user_metrics(*ranks[p], dataset.test, select)["ndcg@50"] for p in places]
    return compared_runs(label, [summaries[p] for p in places], ndcg, judged)


def compared_runs(
    label: str,
    summaries: Sequence[Mapping[str, Any]],
    by_seed: Sequence[np.ndarray],
    judged: str,
) -> Compared:
    """The comparison of the runs of one choice, of which no two are equal.

    Args:
      summaries: one per seed, with "valid" and "test".
      by_seed: one per seed, test NDCG@50 of the users on the slice `judged`.
    """
    line: dict[str, Any] = {"choice": label, "seeds": len(summaries), "slice": judged}
    line["valid"] = float(np.mean([validation(s) for s in summaries]))
    line["select"] = str(selection_of(summaries[0]))
    for metric in SHOWN_METRICS:
        for name in ("all", "warm", "cold"):
            parts = [s["test"] if name == "all" else s["test"][name] for s in summaries]
            if all(metric in part for part in parts):
                values = [part[metric] for part in parts]
                line[f"{name}_{metric}"] = float(np.mean(values))
                line[f"{name}_{metric}_sd"] = float(np.std(values, ddof=min(1, len(values) - 1)))
    if stated := summaries[0].get("privacy"):
        line["epsilon"] = best_epsilon(stated["epsilon"]["spent"])
    ndcg = np.mean(np.asarray(by_seed, np.float64), axis=0)
    known = not np.isnan(ndcg).all()
    line["ci95"] = [100 * bound for bound in bootstrap_interval(ndcg)] if known else None
    return Compared(line, ndcg)


def read_baselines(
    dataset: Dataset, evaluation: EvaluationConfig, evaluate: Evaluate = evaluate_as_config
) -> list[Compared]:
    """The baselines of the data set without `NOT_SHOWN`, as choices with one seed."""
    results = evaluate(dataset, evaluation)
    found = []
    for name, ranks_of_parts in results.ranks.items():
        if name not in NOT_SHOWN:
            ranks = [(ranks_of_parts["test"].ahead, ranks_of_parts["test"].tied)]
            summary = results.summary[name]
            compared = compare_summaries(name, [summary], ranks, dataset)
            compared.line["baseline_of"] = {key: summary[key] for key in BASELINE_FACTS}
            found.append(compared)
    return found


def gain(compared: Compared, reference: Compared) -> dict[str, Any]:
    """The difference in NDCG@50 over the same users, in points and percent, and the p of the
    tests."""
    test = paired_test(compared.ndcg, reference.ndcg)
    return {
        "against": reference.line["choice"],
        "gain": 100 * test.mean_difference,
        "gain_relative": 100 * test.relative_difference,
        "p_value": test.p_value,
        "p_mean": test.p_mean,
        "detectable": 100 * test.detectable,
    }


def correct(gains: Sequence[dict[str, Any]]) -> None:
    """Adds "p_holm" to each dict of `gain`: the p of the t-test, corrected over all of them."""
    for entry, corrected in zip(gains, holm([e["p_mean"] for e in gains]), strict=True):
        entry["p_holm"] = corrected


def compare(
    groups: Mapping[str, Sequence[Path]], dataset: Dataset, baselines: Sequence[Compared] = ()
) -> list[dict[str, Any]]:
    """One line per label, tested against the first label. The best on validation is "chosen".

    Omits labels without a finished run. The baselines follow; they are never "chosen".
    """
    found = [read_choice(label, folders, dataset) for label, folders in groups.items()]
    choices = [compared for compared in found if compared is not None]
    return compare_with_first(choices, baselines) if choices else []


def compare_with_first(
    choices: Sequence[Compared], baselines: Sequence[Compared]
) -> list[dict[str, Any]]:
    """The lines of the choices and baselines, as `compare` returns them."""
    max(choices, key=lambda choice: choice.line["valid"]).line["chosen"] = True
    for compared in (*choices[1:], *baselines):
        compared.line.update(gain(compared, choices[0]))
    correct([compared.line for compared in (*choices[1:], *baselines)])
    return [compared.line for compared in (*choices, *baselines)]
