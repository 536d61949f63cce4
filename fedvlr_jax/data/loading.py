"""Loads a data set by its name: a folder in the layout of MMRec, or the generator."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedvlr_jax.config import DATA_ROOT, DataConfig
from fedvlr_jax.data import mmrec
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.synthetic import generate
from fedvlr_jax.errors import InputError


def load_dataset(
    name: str,
    *,
    data_root: str | Path = DATA_ROOT,
    split: str = "auto",
    duplicates: str = "merge",
    recency: float = 0.0,
    permute_features: int = 0,
    permute_order: int = 0,
    synthetic: Mapping[str, Any] | None = None,
) -> Dataset:
    """Loads a data set by name.

    Args:
      name: "synthetic" for the generator, otherwise a folder of `data_root`.
      data_root: the folder of the data sets; not used for "synthetic". The default is that of the
        flag: the environment variable FEDVLR_DATA, or `data`.
      split: see `mmrec.load`. The synthetic data are always split leave-one-out.
      duplicates: see `mmrec.load`. The synthetic data have none.
      recency: the exponent by which older items of a history lose weight, see
        `Interactions.weighted_by_recency`. 0: all items have equal weight.
      permute_features: a seed above 0 permutes the rows of all features by one permutation, as a
        control for the value of content. 0: no permutation.
      permute_order: a seed above 0 permutes the times of each user's train items, as a control for
        the value of their order. 0: no permutation.
      synthetic: the arguments of the generator; only for the name "synthetic".

    Returns:
      The data set; its `notes` name every entry or column that the loader left out.

    Raises:
      InputError: the data or the options are invalid; one line says where and why.
    """
    # The checks of the flags.
    DataConfig(recency=recency, permute_features=permute_features, permute_order=permute_order)
    dataset = _load(name, data_root, split, duplicates, synthetic)
    if permute_features:
        dataset = _permuted(dataset, permute_features)
    for flag, value in (("permute_order", permute_order), ("recency", recency)):
        if value and not dataset.train.has_times:
            raise InputError(
                f"--{flag}={value}: the data set {name!r} has no time stamps to order items by"
            )
    if permute_order:
        dataset = _reordered(dataset, permute_order)
    if not recency:
        return dataset
    return dataclasses.replace(dataset, train=dataset.train.weighted_by_recency(recency))


def _permuted(dataset: Dataset, seed: int) -> Dataset:
    if not dataset.features:
        raise InputError(
            f"--permute_features={seed}: the data set {dataset.name!r} has no item features"
        )
    order = np.random.Generator(np.random.Philox(seed)).permutation(dataset.num_items)
    features = {name: rows[order] for name, rows in dataset.features.items()}
    note = f"the rows of all features are permuted, seed {seed}"
    return dataclasses.replace(dataset, features=features, notes=(*dataset.notes, note))


def _reordered(dataset: Dataset, seed: int) -> Dataset:
    train = dataset.train
    draw = np.random.Generator(np.random.Philox(seed)).random(len(train))
    # The rows lie user after user, so sorting by the draw within users permutes each user's times.
    time = train.time[np.lexsort((draw, train.users))]
    note = f"the times of each user's train items are permuted, seed {seed}"
    return dataclasses.replace(
        dataset, train=dataclasses.replace(train, time=time), notes=(*dataset.notes, note)
    )


def _load(
    name: str,
    data_root: str | Path,
    split: str,
    duplicates: str,
    synthetic: Mapping[str, Any] | None,
) -> Dataset:
    if name != "synthetic":
        if synthetic:
            raise InputError(
                f"data set {name!r} takes no synthetic options, found {sorted(synthetic)}; "
                "use them with the data set 'synthetic'"
            )
        return mmrec.load(data_root, name, split=split, duplicates=duplicates)
    folder = Path(data_root) / "synthetic"
    if str(data_root) and folder.is_dir():
        raise InputError(
            f"data set 'synthetic': the folder {folder} has the name of the built-in data set; "
            "rename it to train on it, or give another folder of data sets"
        )
    if split not in ("auto", "leave-one-out"):
        raise InputError(
            f"split: found {split!r}, but the data set 'synthetic' has only 'leave-one-out'"
        )
    options = dict(synthetic or {})
    known = list(inspect.signature(generate).parameters)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise InputError(f"synthetic: unknown option {unknown[0]!r}; options are {known}")
    return generate(**options)
