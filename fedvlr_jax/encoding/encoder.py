"""What an encoder is, and which there are."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.errors import InputError

# A forward pass always has this many items: the size of a matrix product chooses its kernel,
# and with it the last bits of every row.
TILE = 16

# Encoder -> (the extra of this package that installs it, what it can read).
ENCODERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "hashing": ("", ("text",)),
    "open_clip": ("clip", ("text", "image")),
    "sentence_transformers": ("sentence", ("text",)),
    "transformers": ("sentence", ("text", "image")),
    "torchvision": ("vision", ("image",)),
}


class Encoder(NamedTuple):
    """Turns items into rows.

    Attributes:
      encode: `TILE` texts or decoded pictures -> float32 [TILE, width].
      description: what the manifest says of it: model, weights, versions.
    """

    encode: Callable[[Sequence[Any]], np.ndarray]
    description: dict[str, Any]


def check_encoder(name: str, kind: str) -> None:
    """Refuses an encoder that is not known or cannot read `kind`, "text" or "image"."""
    able = [known for known, (_, kinds) in ENCODERS.items() if kind in kinds]
    if name not in able:
        what = {"text": "titles", "image": "pictures"}[kind]
        raise InputError(
            f"--encoder={name}: does not encode {what}; choose one of {', '.join(able)}"
        )


def weights_folder(given: str, encoder: str) -> Path:
    """The folder that --weights names, with or without "local-dir:" before it."""
    if not given:
        raise InputError(
            f"--encoder={encoder}: needs --weights=local-dir:FOLDER with the model's files"
        )
    folder = Path(given.removeprefix("local-dir:"))
    if not folder.is_dir():
        raise InputError(f"--weights={given}: no such folder; nothing is downloaded")
    return folder


def imported(module: str, encoder: str) -> Any:
    """An optional library, or one line that says how to install it.

    Nothing is fetched from a hub: weights come from the folder that the user names.
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
    """The error of a folder that is not what the encoder reads."""
    line = " ".join(str(error).split())
    return InputError(
        f"--weights={weights}: not a model that --encoder={encoder} loads ({line[:300]}); give "
        "another folder or --encoder"
    )
