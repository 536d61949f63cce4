"""The results of a finished run: the numbers of summary.json and the arrays of users.npz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.config import EvaluationConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines import Evaluate, evaluate_as_config
from fedvlr_jax.evaluation.exposure import exposure
from fedvlr_jax.evaluation.metrics import (
    activity_groups,
    averages,
    slices,
    summarise,
    user_metrics,
)
from fedvlr_jax.evaluation.ranking import Ranks
from fedvlr_jax.evaluation.selection import judged_slice
from fedvlr_jax.evaluation.significance import holm, paired_test
from fedvlr_jax.federated.initialization import planted_columns, sources_of
from fedvlr_jax.machine import peak_rss_mb
from fedvlr_jax.privacy.statement import statement
from fedvlr_jax.simulation import Simulation, State
from fedvlr_jax.training.costs import metrics_by_tier, summarise_costs
from fedvlr_jax.training.run_state import RunState
from fedvlr_jax.training.timing import Timing


class BaselineSummary(NamedTuple):
    """The result of `summarise_baselines`.

    Attributes:
      summary: each baseline's test summary, with its validation summary under "valid".
      users: "NAME: ndcg@50" and "NAME: hr@50" float32 [N] of the judged slice of the test part, in
        [0, 1], NaN for a user without such a target; a skipped baseline has none.
    """

    summary: dict[str, Any]
    users: dict[str, np.ndarray]


def summarise_run(
    simulation: Simulation,
    run: RunState,
    timing: Timing,
    *,
    seed: int | None = None,
    baselines: BaselineSummary | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Tests the best state once, and adds the baselines.

    Args:
      seed: the seed of the run, if it differs from the config.
      baselines: the result of `summarise_baselines`; None evaluates them here.

    Returns:
      summary: as `report` documents it, percentages unrounded.
      users: the arrays of users.npz, as `report` documents them.
    """
    config, dataset, model = simulation.config, simulation.dataset, simulation.model
    run_seed = config.run.seed if seed is None else seed
    valid, weights = simulation.ranks_and_weights(run.best_state, "valid")
    ranks = {"valid": valid, "test": simulation.evaluate(run.best_state, "test")}
    parts, users = summarise_ranks(dataset, ranks, config.evaluation.cutoffs)
    summary = {
        "dataset": dataset.name,
        "protocol": config.evaluation.protocol,
        "backbone": "own" if "backbone" in model.own else config.model.backbone,
        "fusion": "own" if "fusion" in model.own else config.model.fusion,
        "seed": run_seed,
        "select": str(simulation.selection),
        "selected_round": run.best_round,
        "rounds_run": run.round,
        "stopped": run.stopped,
        **parts,
        "baselines": {},
        "cold_items": _cold_items(dataset, ranks["test"]),
        "views": list(model.fusion.names),
        "router": None,
        "planted_spearman": None,
        "timing": timing._asdict(),
        "peak_rss_mb": peak_rss_mb(),
    }
    if stated := statement(config, simulation.population.num_users, run.round):
        summary["privacy"] = stated
    summary["costs"] = summarise_costs(simulation, run_seed, run.round, run.evaluations)
    if simulation.participation is not None:
        test = ranks["test"]
        summary["tiers"] = metrics_by_tier(simulation, run_seed, test.ahead, test.tied)
    if simulation.hostile is not None:
        summary["attack"] = summarise_attack(simulation, run)
    if model.has_router:
        users["router_weights"] = weights = weights[: dataset.num_users]
        summary["router"] = {
            **_router_means(weights, dataset.train.counts),
            **router_spread(weights),
        }
        if dataset.planted is not None:
            from scipy import stats  # The import takes most of a second.

            planted = planted_columns(dataset, sources_of(model.fusion.names))
            users["planted"] = planted
            summary["planted_spearman"] = {
                name: float(stats.spearmanr(planted[:, g], weights[:, g]).statistic)
                for g, name in enumerate(model.fusion.names)
                if not np.isnan(planted[:, g]).any() and np.ptp(weights[:, g]) > 0
            }
    if baselines is None:
        baselines = summarise_baselines(dataset, config.evaluation)
    return with_baselines(summary, users, baselines)


def with_baselines(
    summary: Mapping[str, Any], users: Mapping[str, np.ndarray], baselines: BaselineSummary
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A summary and its users with the baselines, and the paired tests against each of them.

    Users of earlier versions have no "judged: ndcg@50": they are not tested.
    """
    joined = {**users, **baselines.users}
    paired = paired_with_baselines(joined, list(baselines.summary))
    return {**summary, "baselines": baselines.summary, "paired": paired}, joined


def paired_with_baselines(
    users: Mapping[str, np.ndarray], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The model against each baseline on NDCG@50 of the judged slice, over the same users.

    Returns:
      {baseline: {"difference" and "detectable" in points (None below two users), "p_value" of
      Wilcoxon, "p_mean" of the t-test, "p_holm": that one corrected over all baselines, "users"}}.
    """
    model = users.get("judged: ndcg@50")
    known = [name for name in names if f"{name}: ndcg@50" in users]
    if model is None or not known or np.isnan(model).all():
        return {}
    tests = [paired_test(model, users[f"{name}: ndcg@50"]) for name in known]
    corrected = holm([test.p_mean for test in tests])
    return {
        name: {
            "difference": 100 * test.mean_difference,
            "detectable": None if np.isnan(test.detectable) else 100 * test.detectable,
            "p_value": test.p_value,
            "p_mean": test.p_mean,
            "p_holm": p_holm,
            "users": test.users,
        }
        for name, test, p_holm in zip(known, tests, corrected, strict=True)
    }


def router_spread(weights: np.ndarray) -> dict[str, Any]:
    """The distances of the clients' weights [N, G] from uniform and from each other.

    Returns:
      {"from_uniform", "from_mean": mean over clients of the total variation distance, in [0, 1],
      to equal weights and to the mean of all clients; "p_uniform" [G]: t-tests of each view's mean
      weight against 1 / G, corrected by Holm}.
    """
    weights = np.asarray(weights, np.float64)
    num_views = weights.shape[1]
    distance = lambda other: float(0.5 * np.abs(weights - other).sum(axis=1).mean())
    equal = np.full(len(weights), 1 / num_views)
    # Weights that differ in their last bits alone would be tested as a difference.
    views = np.round(weights, 6)
    tests = [paired_test(views[:, g], np.round(equal, 6)).p_mean for g in range(num_views)]
    return {
        "from_uniform": distance(1 / num_views),
        "from_mean": distance(weights.mean(axis=0)),
        "p_uniform": holm(tests),
    }


def summarise_attack(simulation: Simulation, run: RunState) -> dict[str, Any]:
    """ER@K over honest users of the last and of the selected state, and test metrics of the last.

    An attack is judged by the last state. The state that validation selects may come from an early
    round, before the attack takes effect.
    """
    hostile, dataset, config = simulation.hostile, simulation.dataset, simulation.config
    assert hostile is not None
    pairs = simulation.engine.evaluation.parts["promoted"]

    def exposure_at(state: State) -> dict[str, float]:
        ranks = simulation.evaluate(state, "promoted")
        return exposure(ranks.ahead, ranks.tied, pairs, ks=(5, 10, 20))

    test = simulation.evaluate(run.state, "test")
    return {
        "hostile": hostile.size,
        "targets": hostile.targets.tolist(),
        "test": averages(test.ahead, test.tied, dataset, "test", config.evaluation.cutoffs),
        **exposure_at(run.state),
        "selected": exposure_at(run.best_state),
    }


def summarise_ranks(
    dataset: Dataset, ranks: Mapping[str, Ranks], ks: tuple[int, ...]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Summarises the ranks of "valid" and "test" of any model.

    Returns:
      parts: {"valid": ..., "test": ...} as `summarise` returns them.
      users: the arrays of users.npz without "router_weights" and "planted", as `report` documents
        them.
    """
    parts = {
        part: summarise(rank.ahead, rank.tied, dataset, part, ks) for part, rank in ranks.items()
    }
    test = ranks["test"]
    per_user = user_metrics(test.ahead, test.tied, dataset.test, ks=ks)
    judged = _judged_metrics(test, dataset)
    users = {
        "user_id": np.asarray(dataset.user_ids, np.str_),
        "history_length": dataset.train.counts,
        "hr@50": per_user["hr@50"],
        "ndcg@50": per_user["ndcg@50"],
        "target_indptr": dataset.test.indptr,
        "ahead": test.ahead,
        "tied": test.tied,
        **{f"judged: {metric}": values for metric, values in judged.items()},
    }
    return parts, users


def _judged_metrics(test: Ranks, dataset: Dataset) -> dict[str, np.ndarray]:
    """HR@50 and NDCG@50 of every user on the judged slice of the test part, float32 [N]."""
    select = slices(dataset, "test")[judged_slice(dataset)]
    found = user_metrics(test.ahead, test.tied, dataset.test, select, ks=(50,))
    return {metric: found[metric].astype(np.float32) for metric in ("ndcg@50", "hr@50")}


def summarise_baselines(
    dataset: Dataset, evaluation: EvaluationConfig, evaluate: Evaluate = evaluate_as_config
) -> BaselineSummary:
    """The baselines as a run's options ask for them; empty if they are off."""
    if not evaluation.baselines:
        return BaselineSummary({}, {})
    results = evaluate(dataset, evaluation)
    flat = {}
    for name, entry in results.summary.items():
        rest = {key: value for key, value in entry.items() if key != "test"}
        flat[name] = {**entry.get("test", {}), **rest}
    users = {
        f"{name}: {metric}": values
        for name, ranks in results.ranks.items()
        for metric, values in _judged_metrics(ranks["test"], dataset).items()
    }
    return BaselineSummary(flat, users)


def _cold_items(dataset: Dataset, test: Ranks) -> dict[str, Any]:
    """Statistics of cold items (items without a train interaction).

    Returns:
      {"items": their number, "share_tied": the share of the cold test targets that tie with
      another candidate, None without cold test targets}.
    """
    cold = slices(dataset, "test")["cold"]
    tied = np.asarray(test.tied)[cold] > 0
    return {
        "items": int((dataset.train.item_counts == 0).sum()),
        "share_tied": float(tied.mean()) if len(tied) else None,
    }


def _router_means(weights: np.ndarray, history_length: np.ndarray) -> dict[str, Any]:
    groups = {
        name: weights[chosen].mean(axis=0).tolist()
        for name, chosen in activity_groups(history_length).items()
        if chosen.any()
    }
    return {"mean": weights.mean(axis=0).tolist(), "by_activity": groups}
