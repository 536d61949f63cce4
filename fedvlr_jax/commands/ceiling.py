"""Estimates how well any model can recover the planted preferences of synthetic data.

    fedvlr ceiling --synthetic_users=1000 --synthetic_items=2000

A history is a small sample from a mixture, so every estimate of a user's preference is uncertain.
This command estimates it with knowledge that no model has: every item's cluster in every source,
the popularities and the shares of the recipe. It samples the posterior of each user's two favourite
clusters per source, of the source of each train item, and of the weights. It prints the Spearman
correlation of the posterior mean with the planted weights: a reference for the correlation that a
router reaches. For a thousand users it takes half a minute.

The posterior ignores the repeated interactions that the recipe drops, so the reference is close to
the optimum, but not exact.
"""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from fedvlr_jax.commands.launching.config_flags import config_from_flags
from fedvlr_jax.commands.one_run.runs import load
from fedvlr_jax.data.clusters import BACKGROUND, FAVOURITE, Catalogue
from fedvlr_jax.data.synthetic_parts import SOURCES
from fedvlr_jax.evaluation.metrics import activity_groups

PRIOR = 0.5  # The planted weights are Dirichlet(1/2, 1/2, 1/2).
MOST_CLUSTERS = 5  # Candidates per source: the clusters with most items of the history.


def candidates(catalogue: Catalogue, source: int, items: np.ndarray) -> np.ndarray:
    """float64 [pairs, n]: probability of each item under `source`, for each pair of favourites.

    A favourite is one of the clusters of the history, or a cluster without any item of it.
    """
    cluster = catalogue.cluster_of(SOURCES[source])
    popularity = catalogue.popularity
    mass = np.bincount(cluster, popularity)
    found, count = np.unique(cluster[items], return_counts=True)
    found = found[np.argsort(-count, kind="stable")[:MOST_CLUSTERS]]
    inside = np.where(
        cluster[items] == found[:, None], popularity[items] / mass[cluster[items]], 0.0
    )
    inside = np.concatenate([inside, np.zeros((1, len(items)))])
    pairs = [(a, b) for a in range(len(inside)) for b in range(len(inside)) if a != b]
    first, second = np.array(pairs).T
    anywhere = BACKGROUND * popularity[items] / popularity.sum()
    rest = 1 - FAVOURITE - BACKGROUND
    return FAVOURITE * inside[first] + rest * inside[second] + anywhere


def preferences(
    chances: list[np.ndarray], rng: np.random.Generator, sweeps: int = 150, burn_in: int = 30
) -> np.ndarray:
    """float64 [sources]: posterior mean of the weights by Gibbs sampling.

    Args:
      chances: for each source, [pairs, n] as `candidates` returns it.
    """
    num_sources, num_items = len(chances), chances[0].shape[1]
    weights, total = np.full(num_sources, 1 / num_sources), np.zeros(num_sources)
    chosen = np.stack([chance[0] for chance in chances])
    for sweep in range(sweeps):
        for s, chance in enumerate(chances):
            others = weights @ chosen - weights[s] * chosen[s]
            log = np.log(np.maximum(others, 0) + weights[s] * chance).sum(axis=1)
            share = np.exp(log - log.max())
            chosen[s] = chance[rng.choice(len(share), p=share / share.sum())]
        by_source = weights[:, None] * chosen
        by_source /= by_source.sum(axis=0)
        drawn = (rng.random(num_items) > np.cumsum(by_source, axis=0)[:-1]).sum(axis=0)
        weights = rng.dirichlet(PRIOR + np.bincount(drawn, minlength=num_sources))
        if sweep >= burn_in:
            total += (PRIOR + by_source.sum(axis=1)) / (num_sources * PRIOR + num_items)
    return total / (sweeps - burn_in)


def main() -> None:
    config = config_from_flags()
    dataset = load(config)
    assert dataset.planted is not None
    catalogue = Catalogue(config.data.synthetic_seed, dataset.num_items)
    rng = np.random.default_rng(config.run.seed)
    found = np.empty(dataset.planted.shape)
    for user in range(dataset.num_users):
        items = dataset.train.of(user)
        found[user] = preferences([candidates(catalogue, s, items) for s in range(3)], rng)
    table = Table("history", "users", *SOURCES, title="Spearman of the posterior mean")
    length = dataset.train.counts
    everyone = {"all": np.ones(len(length), bool)}
    for name, group in (everyone | activity_groups(length)).items():
        if group.sum() > 2:
            values = [
                stats.spearmanr(dataset.planted[group, s], found[group, s]).statistic
                for s in range(len(SOURCES))
            ]
            table.add_row(name, str(group.sum()), *(f"{value:.3f}" for value in values))
    Console().print(table)
