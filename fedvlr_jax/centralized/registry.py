"""Name -> centralized model."""

from __future__ import annotations

from collections.abc import Callable

from fedvlr_jax.centralized.bm3 import bm3
from fedvlr_jax.centralized.mgcn import mgcn
from fedvlr_jax.centralized.model import CentralizedModel
from fedvlr_jax.centralized.pgl import pgl
from fedvlr_jax.centralized.sasrec import sasrec
from fedvlr_jax.centralized.vbpr import vbpr

# Signature: (dataset, *, width) -> CentralizedModel.
CENTRALIZED: dict[str, Callable[..., CentralizedModel]] = {
    "vbpr": vbpr,
    "bm3": bm3,
    "mgcn": mgcn,
    "pgl": pgl,
    "sasrec": sasrec,
}
