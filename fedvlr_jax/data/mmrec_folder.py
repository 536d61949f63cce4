"""The files of a data set in the layout of MMRec, see `mmrec.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fedvlr_jax.data.faults import shown
from fedvlr_jax.data.feature_files import check_modality
from fedvlr_jax.errors import InputError

_FEATURE_FILE = re.compile(r"(?P<modality>.+)_(features|feat)\.npy")
_COMPRESSIONS = ("", ".gz", ".bz2", ".xz")
# Suffixes of array files. A note names each such file that is not read.
_ARRAY_SUFFIXES = (
    *(".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".h5", ".hdf5", ".mat"),
    *(".safetensors", ".parquet", ".feather", ".arrow"),
)


def find_folder(root: Path, name: str) -> Path:
    """The folder of a data set. Raises InputError, with the known names, if there is none."""
    plain = Path(name).name == name and "\0" not in name and len(name.encode()) < 256
    if name in ("", ".", "..") or not plain:
        raise InputError(
            f"data set name: found {shown(name)}, expected the name of a folder in {root}; "
            "--data_root names that folder"
        )
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; --data_root or the environment variable FEDVLR_DATA names "
            "the folder of the data sets"
        )
    folder = root / name
    if not folder.is_dir():
        known = sorted(
            child.name for child in root.iterdir() if child.is_dir() and _interaction_files(child)
        )
        raise InputError(
            f"{root}: no data set {name!r}; found {', '.join(known) or 'none'}; --data_root or "
            "the environment variable FEDVLR_DATA names another folder"
        )
    return folder


def _interaction_files(folder: Path) -> list[Path]:
    names = ("inter.csv", "inter.tsv", f"{folder.name}.inter")
    paths = [folder / f"{name}{suffix}" for name in names for suffix in _COMPRESSIONS]
    return [path for path in paths if path.exists()]


def find_interactions(folder: Path) -> Path:
    """The file of the interactions. Raises InputError unless there is exactly one."""
    found = _interaction_files(folder)
    if len(found) != 1:
        # The message names files of other kinds, such as inter.parquet.
        others = sorted(folder.glob("inter.*")) or sorted(folder.glob(f"{folder.name}.*"))
        names = " and ".join(path.name for path in found or others) or "none"
        raise InputError(
            f"{folder}: found {names}, expected exactly one of inter.csv, inter.tsv and "
            f"{folder.name}.inter, which may end in .gz, .bz2 or .xz"
        )
    return found[0]


def feature_files(folder: Path) -> dict[str, Path]:
    """Modality -> file, in the order text, image, then the others by name."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _FEATURE_FILE.fullmatch(path.name)
        if not match:
            continue
        modality = match["modality"]
        if modality in files:
            raise InputError(
                f"{path}: a second file of modality {modality!r} beside {files[modality].name}, "
                "expected one"
            )
        check_modality(str(path), modality)
        files[modality] = path
    usual = ("text", "image")
    order = [name for name in usual if name in files]
    return {name: files[name] for name in (*order, *(n for n in files if n not in usual))}


def prepared_rating(folder: Path) -> float | None:
    """The --min_rating that the manifest of `fedvlr prepare` states; None without one."""
    try:
        rating = json.loads((folder / "manifest.json").read_bytes())["options"]["min_rating"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return float(rating) if isinstance(rating, int | float) else None


def unread_arrays(folder: Path, feature_files: dict[str, Path]) -> list[str]:
    """A note for each file that may hold features but is not read."""
    read = {path.name for path in feature_files.values()}
    return [
        f"{path.name} is not read; features are read from <modality>_features.npy, such as "
        f"{path.name.split('.')[0]}_features.npy"
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _ARRAY_SUFFIXES and path.name not in read
    ]
