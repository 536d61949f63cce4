"""The data sets and baselines of the runs of one command, each loaded and evaluated once."""

from __future__ import annotations

from typing import Any

from fedvlr_jax.attacks import population
from fedvlr_jax.commands.shared.runs import load
from fedvlr_jax.config import Config, DataConfig
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.evaluation.baselines import Evaluate, evaluate_as_config
from fedvlr_jax.summary import BaselineSummary, summarise_baselines


class Loaded:
    """What runs of one command share.

    Args:
      evaluate: evaluates the baselines.

    Attributes:
      datasets: those loaded so far, by `config.data`, without hostile clients.
    """

    def __init__(self, evaluate: Evaluate = evaluate_as_config):
        self._evaluate = evaluate
        self._summaries: dict[Any, BaselineSummary] = {}
        self.datasets: dict[DataConfig, Dataset] = {}

    def dataset(self, config: Config) -> Dataset:
        """The data set of a run, without hostile clients."""
        if config.data not in self.datasets:
            self.datasets[config.data] = load(config)
        return self.datasets[config.data]

    def baselines(self, config: Config) -> BaselineSummary:
        """The baselines of a run. They see the histories of its hostile clients too."""
        attack = None if config.attack.attack == "none" else config.attack
        key = config.data, attack, config.evaluation
        if key not in self._summaries:
            dataset = population(config.attack, self.dataset(config))
            self._summaries[key] = summarise_baselines(dataset, config.evaluation, self._evaluate)
        return self._summaries[key]
