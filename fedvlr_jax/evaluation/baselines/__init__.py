"""Baselines that a federated model is compared with, under the same ranking and metrics.

`model.py` defines the interface of a baseline, `registry.py` lists the baselines, and
`evaluating.py` tunes and measures them. Each of the other files has one family.
"""

from fedvlr_jax.evaluation.baselines.evaluating import (
    CHUNK_BYTES,
    MASKS,
    BaselineResults,
    Evaluate,
    evaluate_as_config,
    evaluate_baselines,
    evaluate_once,
    rank,
)
from fedvlr_jax.evaluation.baselines.model import Baseline, Model, Scorer, scores_of
from fedvlr_jax.evaluation.baselines.neighbours import content_knn
from fedvlr_jax.evaluation.baselines.registry import baselines_of

__all__ = [
    "CHUNK_BYTES",
    "MASKS",
    "Baseline",
    "BaselineResults",
    "Evaluate",
    "Model",
    "Scorer",
    "baselines_of",
    "content_knn",
    "evaluate_as_config",
    "evaluate_baselines",
    "evaluate_once",
    "rank",
    "scores_of",
]
