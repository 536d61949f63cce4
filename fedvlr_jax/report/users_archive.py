"""The content of users.npz: arrays with one row per user, or one per target."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from fedvlr_jax.errors import InputError

# The index of each user's first target, and the arrays with one row per target.
TARGETS, PER_TARGET = "target_indptr", ("ahead", "tied")


def dump_users(name: str, users: Mapping[str, np.ndarray]) -> bytes:
    """The archive, without pickle. Raises ValueError, naming the file `name`, for Python objects
    and for arrays of different lengths."""
    arrays = {key: np.asarray(value) for key, value in users.items()}
    for key, value in arrays.items():
        if value.dtype.hasobject:
            raise ValueError(f"{name}: {key} holds Python objects; give numbers or str")
    if problem := _uneven(arrays):
        raise ValueError(f"{name}: {problem}")
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getvalue()


def parse_users(content: bytes, place: str) -> dict[str, np.ndarray]:
    """The arrays of an archive. Raises InputError, naming the place, for a damaged one."""
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it is one array")
        users = {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{place}: damaged, no archive of NumPy arrays: {error}") from None
    if problem := _uneven(users):
        raise InputError(f"{place}: damaged: {problem}")
    return users


def _uneven(arrays: Mapping[str, np.ndarray]) -> str:
    """The fault of the arrays' first axes; "" for none."""
    for name, value in arrays.items():
        if value.ndim == 0:
            return f"{name} has no axis of users"
    lengths = {name: len(value) for name, value in arrays.items()}
    if TARGETS in arrays:
        lengths[TARGETS] -= 1
        size = int(arrays[TARGETS][-1]) if len(arrays[TARGETS]) else 0
        for name in PER_TARGET:
            if (found := lengths.pop(name, size)) != size:
                return f"{name} has {found} rows, {TARGETS} counts {size} targets"
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        return f"the arrays differ in their number of users: {listed}"
    return ""
