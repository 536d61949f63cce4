"""Writing one checkpoint: the copy that training waits for, and the save in the background."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from fedvlr_jax import sealing
from fedvlr_jax.checkpointing import layout
from fedvlr_jax.checkpointing.layout import PACKED, blocks_of, kinds, plain
from fedvlr_jax.trees import is_key, named_leaves
from fedvlr_jax.types import PyTree

STATE, META = "state", "meta.json"
# Compression saves about 20 % but dominates save time. A database of chunks (OCDBT) is for far more
# files than one a leaf. The arrays are already ours, so orbax need not copy them.
_ARRAYS = ocp.options.ArrayOptions(
    saving=ocp.options.ArrayOptions.Saving(use_compression=False, use_ocdbt=False)
)
_MEMORY = ocp.options.MemoryOptions(deepcopy_host_arrays=False)

logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


class Content(NamedTuple):
    """A checkpoint that is ready to be written: its arrays in host memory, and its meta as JSON."""

    arrays: dict[str, np.ndarray]
    meta: str


def copied(tree: PyTree, meta: Mapping[str, Any]) -> Content:
    """The content of a checkpoint; `tree` may be donated as soon as this returns.

    NumPy arrays that own their memory, and maps of files, are taken over without a copy. A leaf
    that stands in several places, as the same object, is stored once.
    """
    leaves = named_leaves(tree)
    first: dict[int, str] = {}
    same_as = {name: first.setdefault(id(leaf), name) for name, leaf in leaves.items()}
    stored = {name: leaf for name, leaf in leaves.items() if same_as[name] == name}
    arrays = _copy_packed(stored)
    facts = {
        **meta,
        "small_bytes": layout.SMALL_BYTES,
        "block_bytes": layout.BLOCK_BYTES,
        "leaves": kinds(plain(leaves)),
        "same_as": {name: other for name, other in same_as.items() if other != name},
    }
    return Content(arrays, json.dumps(facts))


def _copy_packed(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that orbax stores, owned by this save: large leaves, and the small ones in one."""
    numbers = [jax.random.key_data(x) if is_key(x) else x for x in leaves.values()]
    host = dict(zip(leaves, jax.device_get(numbers), strict=True))
    small = [x.reshape(-1).view(np.uint8) for x in host.values() if x.nbytes <= layout.SMALL_BYTES]
    # device_get returns a NumPy array as it is: it was gathered for this save, so it is ours.
    given = lambda name, x: x is leaves[name] and (x.flags.owndata or isinstance(x, np.memmap))
    copy = lambda name, x: x if given(name, x) else np.array(x)
    packed = {name: copy(name, x) for name, x in host.items() if x.nbytes > layout.SMALL_BYTES}
    return {**packed, PACKED: np.concatenate(small)} if small else packed


def _in_blocks(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`arrays`, the large ones cut into views of their blocks."""
    cut = {}
    for name, array in arrays.items():
        most = math.inf if name == PACKED else layout.BLOCK_BYTES
        for block in blocks_of(name, (array.shape, array.dtype), most):
            cut[block.name] = array[block.start : block.stop] if array.ndim else array
    return cut


def store(step: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Orbax's part of a save: of several processes all take part, and the first writes."""
    with ocp.Context(array_options=_ARRAYS, memory_options=_MEMORY):
        ocp.save(step / STATE, _in_blocks(arrays))


def check_space(directory: Path, size: int) -> None:
    """Raises OSError if the disk, a quota or a limit does not allow `size` more bytes.

    Checked before orbax writes, because orbax prints a traceback a leaf on a full disk.
    """
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=directory) as file:
            os.posix_fallocate(file.fileno(), 0, size)


def write(step: Path, content: Content, round_number: int) -> None:
    """Writes and seals the directory `step`, which must not exist.

    Raises:
      OSError: the disk cannot take it; a torn directory is left.
    """
    step.mkdir(parents=True)
    size = sum(array.nbytes for array in content.arrays.values()) + len(content.meta)
    check_space(step, size)
    store(step, content.arrays)
    (step / META).write_text(content.meta, encoding="utf-8")
    sealing.seal(step, round=round_number)
