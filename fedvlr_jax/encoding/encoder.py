"""The interface of an encoder, and the list of encoders."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.errors import InputError

# Number of items in every forward pass. The size of a matrix product selects its kernel, and the
# kernel decides the last bits of each row.
TILE = 16

# Encoder -> (the extra of this package that installs its libraries, the kinds of input).
ENCODERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "hashing": ("", ("text",)),
    "open_clip": ("clip", ("text", "image")),
    "sentence_transformers": ("sentence", ("text",)),
    "transformers": ("sentence", ("text", "image")),
    "torchvision": ("vision", ("image",)),
}


class Encoder(NamedTuple):
    """Maps titles or pictures to feature rows.

    Attributes:
      encode: `TILE` texts or decoded pictures -> float32 [TILE, width].
      description: the entries of the manifest: model, weights, versions.
    """

    encode: Callable[[Sequence[Any]], np.ndarray]
    description: dict[str, Any]


def check_encoder(name: str, kind: str) -> None:
    """Checks that the encoder exists and reads inputs of `kind`, "text" or "image".

    Raises:
      InputError: it does not.
    """
    suitable = [known for known, (_, kinds) in ENCODERS.items() if kind in kinds]
    if name not in suitable:
        plural = {"text": "titles", "image": "pictures"}[kind]
        raise InputError(
            f"--encoder={name}: does not encode {plural}; choose one of {', '.join(suitable)}"
        )


def weights_folder(given: str, encoder: str) -> Path:
    """The folder of --weights; the prefix "local-dir:" is optional.

    Raises:
      InputError: no folder is given, or it does not exist.
    """
    if not given:
        raise InputError(
            f"--encoder={encoder}: needs --weights=local-dir:FOLDER with the model's files"
        )
    folder = Path(given.removeprefix("local-dir:"))
    if not folder.is_dir():
        raise InputError(f"--weights={given}: no such folder; the command downloads nothing")
    return folder


def imported(module: str, encoder: str) -> Any:
    """Imports an optional library.

    Hubs are switched off: all weights come from the folder that the user gives.

    Raises:
      InputError: the library is not installed; the message says how to install it.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = ENCODERS[encoder][0]
        raise InputError(
            f"--encoder={encoder}: needs the library {module}: install the extra with "
            f"pip install 'fedvlr_jax[{extra}]' ({error})"
        ) from error


def cannot_load(weights: Path, encoder: str, error: object) -> InputError:
    """The error for a folder that the encoder cannot load."""
    line = " ".join(str(error).split())
    return InputError(
        f"--weights={weights}: not a model that --encoder={encoder} loads ({line[:300]}); give "
        "another folder or --encoder"
    )
