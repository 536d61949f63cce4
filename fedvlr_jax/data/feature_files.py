"""Reads arrays of features from untrusted files.

The module checks a size before it allocates memory, and unpickles nothing. Every fault is an
`InputError` of one line that names the file, the row, the column, the value found and the value
expected.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedvlr_jax.data.faults import fault, shown
from fedvlr_jax.errors import InputError, reason


def read_feature(path: Path) -> np.ndarray:
    """Reads a .npy file as float32 [rows, width].

    Raises:
      InputError: the file is not a float array of two dimensions, or has a number outside
        FEATURE_RANGE.
    """
    if not path.is_file():
        raise InputError(f"{path}: not a file; expected a .npy file")
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _read_npy_header(path, file)
            _check_npy_header(path, shape, dtype, stored=path.stat().st_size - file.tell())
            raw = np.fromfile(file, dtype, count=math.prod(shape))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from error
    raw = raw.reshape(shape, order="F" if fortran else "C")
    with np.errstate(over="ignore", invalid="ignore"):
        feature = np.ascontiguousarray(raw, np.float32)
    usable = usable_features(feature)
    if not usable.all():
        row, column = (int(index) for index in np.argwhere(~usable)[0])
        raise fault(path, row, str(column), str(raw[row, column]), FEATURE_RANGE)
    return feature


# Squares of larger features, summed over a row, exceed float32.
LARGEST_FEATURE = 1e15
FEATURE_RANGE = f"a finite number from -{LARGEST_FEATURE:g} to {LARGEST_FEATURE:g}"


def usable_features(feature: np.ndarray) -> np.ndarray:
    """bool, in the shape of `feature`: the numbers in FEATURE_RANGE."""
    return (feature >= -LARGEST_FEATURE) & (feature <= LARGEST_FEATURE)


def check_modality(place: str, modality: object) -> None:
    """Raises InputError for a name that no value of --views could name."""
    text = modality if isinstance(modality, str) else ""
    if text in ("", "id") or "," in text or text != text.strip():
        raise InputError(
            f"{place}: found the modality {modality!r}, expected a name that is not 'id' and has "
            "no comma and no space at an end"
        )


def _read_npy_header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        return readers[np.lib.format.read_magic(file)](file)
    # A forged header can raise many kinds of error in the reader; all mean a bad header.
    except Exception as error:
        raise InputError(
            f"{path}: no readable .npy header; expected a file written by numpy.save"
        ) from error


def _check_npy_header(path: Path, shape: tuple[int, ...], dtype: np.dtype, *, stored: int) -> None:
    """Checks the dtype, the shape, and that the file has the size that they imply."""
    if dtype.hasobject:
        raise InputError(f"{path}: found pickled objects, expected float16, float32 or float64")
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise InputError(f"{path}: found dtype {dtype}, expected float16, float32 or float64")
    # The reader of the header accepts True as an int, but it is not a number of rows.
    if len(shape) != 2 or bool in map(type, shape) or min(shape) < 1:
        raise InputError(f"{path}: found shape {shown(shape)}, expected [num_items, width]")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != stored:
        raise InputError(
            f"{path}: the header declares {claimed} bytes ({shown(shape)}, {dtype}), but the "
            f"file has {stored}; it is truncated or damaged"
        )
