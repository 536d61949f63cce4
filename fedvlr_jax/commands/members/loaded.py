"""The data sets and baselines of the runs of one command, each loaded and evaluated once."""

from __future__ import annotations

from typing import Any

from fedvlr_jax.commands.one_run.runs import load
from fedvlr_jax.config import Config, DataConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines import Evaluate, evaluate_as_config
from fedvlr_jax.training.summary import BaselineSummary, summarise_baselines


class Loaded:
    """The data sets and baselines that the runs of one command share.

    Args:
      evaluate: evaluates the baselines.

    Attributes:
      datasets: those loaded so far, by `config.data`.
    """

    def __init__(self, evaluate: Evaluate = evaluate_as_config) -> None:
        self._evaluate = evaluate
        self._summaries: dict[Any, BaselineSummary] = {}
        self.datasets: dict[DataConfig, Dataset] = {}

    def dataset(self, config: Config) -> Dataset:
        """The data set of a run."""
        if config.data not in self.datasets:
            self.datasets[config.data] = load(config)
        return self.datasets[config.data]

    def baselines(self, config: Config) -> BaselineSummary:
        """The baselines of a run, from the histories of the users without hostile clients."""
        key = config.data, config.evaluation
        if key not in self._summaries:
            self._summaries[key] = summarise_baselines(
                self.dataset(config), config.evaluation, self._evaluate
            )
        return self._summaries[key]
