"""Methods that a federated model is compared with, ranked and measured exactly as it is.

`model.py` says what a baseline is, `registry.py` lists them, `evaluating.py` tunes and measures
them. Each of the other files has one family.
"""

from fedvlr_jax.evaluation.baselines.evaluating import (
    CHUNK_BYTES,
    MASKS,
    BaselineResults,
    evaluate_as_config,
    evaluate_baselines,
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
    "Model",
    "Scorer",
    "baselines_of",
    "content_knn",
    "evaluate_as_config",
    "evaluate_baselines",
    "rank",
    "scores_of",
]
