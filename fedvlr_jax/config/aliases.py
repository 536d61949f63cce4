"""Earlier names of flags. The commands still accept them, and runs saved with them resume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedvlr_jax.errors import InputError

_OF_INIT = (
    *("router", "topics", "sharpness", "exchanges", "user_power", "item_power"),
    *("ridge", "content", "recency", "shrinkage", "score"),
)
# Earlier name -> name.
ALIASES = {
    "start": "init",
    **{f"start_{name}": f"init_{name}" for name in _OF_INIT},
    "dropout": "client_dropout",
    "copy_lr": "delta_lr",
    "fedrap_apart": "fedrap_repulsion",
    "fedrap_sparse": "fedrap_l1",
}


def with_current_names(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `flags` with every earlier name replaced by the current name.

    Raises:
      InputError: a flag is given under both names.
    """
    for old, new in ALIASES.items():
        if old in flags and new in flags:
            raise InputError(
                f"--{old}: an earlier name of --{new}, which is also given; give only one"
            )
    return {ALIASES.get(name, name): value for name, value in flags.items()}
