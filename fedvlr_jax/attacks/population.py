"""Hostile clients as part of the population: their number, their histories and their targets."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from fedvlr_jax.config import AttackConfig
from fedvlr_jax.data.dataset import Dataset, Interactions
from fedvlr_jax.errors import InputError
from fedvlr_jax.settings import generator_of

# Of the honest users' interactions, those that FedRecAttack may see.
PUBLIC_SHARE = 0.01
# Targets are drawn from this share of the catalogue: the most, or the least, popular items.
EXTREME_SHARE = 0.1
# Purposes of `generator_of`. The number of a hostile client follows HISTORY.
PLAN, HISTORY = 0xA77A, 0xA77B


class Hostile(NamedTuple):
    """The hostile clients of a population.

    Attributes:
      first: the first of them, which is the number of honest users. size: how many.
      targets: int64 [T], the items that they promote, ascending.
      public: int64 [2, P], user and item of the interactions that anybody can see.
    """

    first: int
    size: int
    targets: np.ndarray
    public: np.ndarray


def plan_hostile(config: AttackConfig, dataset: Dataset) -> Hostile:
    """Who attacks the honest users of `dataset`, and for which items.

    There is one hostile client at least, and --hostile_share of the honest users rounded to the
    nearest. All is drawn from --attack_seed.

    Raises:
      InputError: more targets than items to draw them from.
    """
    generator = generator_of(config.attack_seed, PLAN)
    counts = dataset.train.item_counts
    size = max(1, int(EXTREME_SHARE * dataset.num_items))
    order = np.argsort(counts, kind="stable")
    extreme = order[-size:] if config.target_items == "popular" else order[:size]
    if config.num_targets > size:
        raise InputError(
            f"--num_targets={config.num_targets}: targets are drawn from the {size} most or least "
            f"popular of {dataset.num_items} items; give at most {size}"
        )
    targets = np.sort(generator.choice(extreme, config.num_targets, replace=False))
    pairs = np.stack([dataset.train.users, dataset.train.item]).astype(np.int64)
    public = max(1, int(PUBLIC_SHARE * pairs.shape[1]))
    chosen = np.sort(generator.choice(pairs.shape[1], public, replace=False))
    count = max(1, round(config.hostile_share * dataset.num_users))
    return Hostile(dataset.num_users, count, targets, pairs[:, chosen])


def histories(config: AttackConfig, dataset: Dataset, hostile: Hostile) -> list[np.ndarray]:
    """The train items of each hostile client.

    As many items as the median honest user has, drawn by popularity. Where the attack is
    "scaling" the targets are among them. Where it is "label_flip" they are drawn from the items
    outside such a history: the client trains with the labels exchanged.
    """
    counts = dataset.train.item_counts.astype(float) + 1e-9
    length = max(1, min(int(np.median(dataset.train.counts)), dataset.num_items // 2))
    found = []
    for number in range(hostile.size):
        generator = generator_of(config.attack_seed, HISTORY, number)
        # Gumbel's trick: a draw without replacement by weight.
        order = np.argsort(-(np.log(counts) + generator.gumbel(size=len(counts))))
        items = order[:length]
        if config.attack == "label_flip":
            items = generator.choice(order[length:], length, replace=False)
        elif config.attack == "scaling":
            items = np.union1d(items, hostile.targets)
        found.append(np.sort(items))
    return found


def with_hostile(config: AttackConfig, dataset: Dataset, hostile: Hostile) -> Dataset:
    """The data set with the hostile clients behind its users; they have nothing held out."""
    own = histories(config, dataset, hostile)
    lengths = np.array([len(items) for items in own])
    train = dataset.train
    ends = train.indptr[-1] + np.cumsum(lengths)
    item = np.concatenate([train.item, *own]).astype(train.item.dtype)
    extended = dataclasses.replace(
        train,
        indptr=np.concatenate([train.indptr, ends]),
        item=item,
        time=np.concatenate([train.time, np.zeros(lengths.sum(), train.time.dtype)]),
        weight=None
        if train.weight is None
        else np.concatenate([train.weight, np.ones(lengths.sum(), train.weight.dtype)]),
    )
    names = np.array([f"hostile-{number}" for number in range(hostile.size)])
    return dataclasses.replace(
        dataset,
        train=extended,
        valid=_without_items(dataset.valid, hostile.size),
        test=_without_items(dataset.test, hostile.size),
        user_ids=np.concatenate([np.asarray(dataset.user_ids, np.str_), names]),
        planted=None,
    )


def _without_items(part: Interactions, count: int) -> Interactions:
    """`part` with `count` users more, who have no item in it."""
    end = np.full(count, part.indptr[-1], part.indptr.dtype)
    return dataclasses.replace(part, indptr=np.concatenate([part.indptr, end]))
