"""Checks the environment of a run: versions, devices, memory, folders and disk.

    fedvlr doctor --data_root=data

The command prints one table and writes nothing. A row with a fault starts with FAULT. The exit
status is 2 if a run could not work on this machine.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

import fedvlr_jax
from fedvlr_jax.cache import cache_folder
from fedvlr_jax.errors import InputError
from fedvlr_jax.machine import memory_limit

FLAGS = flags.FLAGS
REQUIRED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "pandas")
EXTRAS = ("optuna", "tensorboardX", "torch")


class Fault(Exception):
    """A fault that prevents a run; the message is for its row."""


def main() -> None:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    faults = 0
    for name, look in rows(FLAGS.data_root).items():
        try:
            found = look()
        except Fault as fault:
            faults += 1
            found = f"FAULT: {fault}"
        table.add_row(Text(name), Text(found))
    console = Console()
    if not console.is_terminal:
        console = Console(width=80)
    console.print(table)
    if faults:
        raise InputError(f"{faults} of the rows above have a fault")


def rows(data_root: str) -> dict[str, Callable[[], str]]:
    """{name of a row: function that returns its text, or raises Fault}."""
    return {
        "fedvlr_jax": lambda: fedvlr_jax.__version__,
        "python": lambda: f"{platform.python_version()}, {platform.platform()}",
        **{name: functools.partial(_version, name, required=True) for name in REQUIRED},
        **{f"{name} (extra)": functools.partial(_version, name) for name in EXTRAS},
        "devices": _devices,
        "CPU cores": lambda: (
            str(len(os.sched_getaffinity(0)))
            if hasattr(os, "sched_getaffinity")
            else str(os.cpu_count())
        ),
        "memory": _memory,
        "data root": lambda: _data_root(data_root),
        "cache folder": _cache,
        "free disk here": lambda: _free(Path.cwd()),
        "clock": lambda: time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _version(name: str, required: bool = False) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if required:
            raise Fault(f"not installed; pip install {name}") from None
        return f"not installed; pip install {name}"


def _devices() -> str:
    import jax

    from fedvlr_jax.commands.launching.faults import missing_platform

    if reason := missing_platform():
        raise Fault(reason)
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})"


def _memory() -> str:
    limit = memory_limit()
    return f"{limit.size / 1e9:.1f} GB, the limit of {limit.source}"


def _data_root(folder: str) -> str:
    path = Path(folder)
    if not path.is_dir():
        return f"{folder}: no such folder; give --data_root (synthetic data need none)"
    found = sorted(child.name for child in path.iterdir() if child.is_dir())
    return f"{folder}: {', '.join(found) or 'no data set'}"


def _cache() -> str:
    try:
        folder = cache_folder()
    except (RuntimeError, OSError, InputError) as error:
        return f"none: {error}; every start compiles again"
    if not folder:
        return "none, because FEDVLR_CACHE_DIR is empty; every start compiles again"
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return f"{folder}: {size / 1e6:.0f} MB, {_free(Path(folder))}"


def _free(folder: Path) -> str:
    usage = shutil.disk_usage(folder)
    if not os.access(folder, os.W_OK):
        return f"{folder}: not writable"
    return f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"
