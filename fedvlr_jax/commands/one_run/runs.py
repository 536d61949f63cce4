"""Shared by all commands: loads the data of a run, checks its folder, describes it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fedvlr_jax
from fedvlr_jax.config import RESUMABLE_FLAGS, Config, unused
from fedvlr_jax.config.automatic import automatic_values
from fedvlr_jax.data.dataset import Dataset
from fedvlr_jax.data.loading import load_dataset
from fedvlr_jax.data.titles import read_titles
from fedvlr_jax.errors import InputError
from fedvlr_jax.evaluation.selection import resolve_selection


def load(config: Config, *, note: Callable[[str], None] = print) -> Dataset:
    """Loads the data set of `config`, and passes each of its notes to `note`."""
    data = config.data
    synthetic = {
        "kind": data.synthetic_kind,
        "users": data.synthetic_users,
        "items": data.synthetic_items,
        "seed": data.synthetic_seed,
    }
    dataset = load_dataset(
        data.dataset,
        data_root=data.data_root,
        split=data.split,
        duplicates=data.duplicates,
        recency=data.recency,
        permute_features=data.permute_features,
        permute_order=data.permute_order,
        synthetic=synthetic if data.dataset == "synthetic" else None,
    )
    for line in dataset.notes:
        note(line)
    # Refuses a slice without targets and wrong titles before anything is written.
    resolve_selection(config.evaluation.selection, dataset)
    titles_of(config, dataset)
    return dataset


def titles_of(config: Config, dataset: Dataset) -> np.ndarray | None:
    """The title of every item, str [num_items]; None if the data set has no titles."""
    if config.data.dataset == "synthetic":
        return None
    folder = Path(config.data.data_root) / config.data.dataset
    return read_titles(folder, dataset.item_ids.tolist())


def required_workdir(config: Config, example: str) -> Path:
    """--workdir, for a command without a default folder.

    Raises:
      InputError: --workdir is empty; the message shows `example`.
    """
    if not config.run.workdir:
        raise InputError(f"--workdir: empty; give a directory, e.g. --workdir={example}")
    return Path(config.run.workdir)


def check_same(
    where: str,
    saved: tuple[Mapping[str, Any], str | None],
    now: tuple[Mapping[str, Any], str],
    free: Collection[str] = RESUMABLE_FLAGS,
    *,
    can_overwrite: bool = True,
) -> None:
    """Refuses to resume a run that has other flags or data, and names the differences.

    Flags that have their automatic values in both runs follow from another flag. They are named
    only if no other flag differs.

    Args:
      where: the place of the run, for the message.
      saved, now: (flags, fingerprint of the data) of the saved run and of this call.
      free: flags that may differ.
      can_overwrite: whether the command has --overwrite, which the message then names.

    Raises:
      InputError: other flags differ, or the data do.
    """
    (was, was_data), (flags, data) = saved, now
    known = {name: repr(value) for name, value in was.items()}
    names = [name for name, value in flags.items() if name not in free and was.get(name) != value]
    automatic = _automatic(was) & _automatic(flags)
    given = [name for name in names if name not in automatic]
    differing = [
        f"--{name} was {known.get(name, 'unknown to the version that saved it')}, is "
        f"{flags[name]!r}"
        for name in given or names
    ]
    if was_data != data:
        differing.append("the data have changed")
    if differing:
        remedy = "another directory or the same flags"
        if can_overwrite:
            remedy = "another directory, the same flags, or --overwrite"
        raise InputError(f"{where}: holds another run: {'; '.join(differing)}; give {remedy}")


def _automatic(flags: Mapping[str, Any]) -> set[str]:
    """The flags that have the values of `auto`; none if `flags` are not those of a run."""
    try:
        values = automatic_values(Config.from_flat(**flags))
    except InputError:
        return set()
    return {name for name, value in values.items() if flags.get(name) == value}


def _commit() -> str:
    here = Path(fedvlr_jax.__file__).parent
    ask = lambda *command: subprocess.run(
        ["git", "-C", str(here), *command], capture_output=True, text=True, timeout=10, check=True
    ).stdout.strip()
    try:
        return ask("rev-parse", "HEAD") + (
            "+changes" if ask("status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _environment() -> dict[str, str]:
    """The environment variables of JAX and its compiler, by name.

    The results of a run do not depend on JAX's own variables: see `fedvlr_jax.settings`. Compiler
    flags may change the last bits.
    """
    known = ("JAX_", "XLA_", "LIBTPU_", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE")
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(known)}


def _program() -> str:
    """The program of this process, without flags: `fedvlr NAME` or `python -m FOLDER.NAME`."""
    program = sys.argv[0]
    if program.startswith("fedvlr "):
        return program
    return f"python -m {Path(program).parent.name}.{Path(program).stem}"


def describe_code() -> dict[str, Any]:
    """The command and its environment: versions, commit, device, variables."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "versions": {
            "fedvlr_jax": fedvlr_jax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
        },
        "commit": _commit(),
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "environment": _environment(),
        "command": " ".join([_program(), *map(shlex.quote, sys.argv[1:])]),
    }


def describe(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The content of config.json: flags, data, and `describe_code`."""
    return {
        "flags": config.flat,
        "groups": {
            group.name: vars(getattr(config, group.name)) for group in dataclasses.fields(config)
        },
        "defaults": Config().flat | automatic_values(config),
        "unused": {flag.name: flag.why for flag in unused(config)},
        **describe_code(),
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "num_users": dataset.num_users,
            "num_items": dataset.num_items,
            "interactions": {p: len(getattr(dataset, p)) for p in ("train", "valid", "test")},
            "features": {name: x.shape[1] for name, x in dataset.features.items()},
            "split": dataset.split,
            "notes": list(dataset.notes),
        },
    }
