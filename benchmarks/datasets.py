"""The data sets of the benchmarks: data sets on disk, and synthetic ones of a given size."""

from __future__ import annotations

from fedvlr_jax.commands.launching.config_flags import whole_numbers
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.errors import InputError


def named_dataset(flag: str, name: str, data_root: str) -> Dataset:
    """The data set `name`, or for "synthetic:USERS:ITEMS" the synthetic one of that size.

    Raises:
      InputError: no such data set, or an invalid size. The message names `flag`.
    """
    source, *sizes = name.split(":")
    if not sizes:
        return load_dataset(name, data_root=data_root)
    if source != "synthetic" or len(sizes) > 2:
        raise InputError(
            f"--{flag}={name}: only synthetic takes a size; give synthetic:USERS:ITEMS"
        )
    numbers = (whole_numbers(flag, size)[0] for size in sizes)
    synthetic = dict(zip(("users", "items"), numbers, strict=False))
    return load_dataset("synthetic", synthetic=synthetic)
