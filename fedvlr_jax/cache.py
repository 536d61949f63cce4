"""The folder of compiled programs, which commands and tests share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fedvlr_jax.config import expanded


def cache_folder() -> str:
    """The folder of compiled programs; empty for none.

    It is FEDVLR_CACHE_DIR, else "fedvlr_jax" in XDG_CACHE_HOME, else in ~/.cache.

    Raises:
      RuntimeError, OSError, InputError: there is no home folder, or the folder cannot be written.
    """
    folder = os.environ.get("FEDVLR_CACHE_DIR")
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = str(Path(base) / "fedvlr_jax")
    folder = expanded(folder)
    if folder:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    return folder
