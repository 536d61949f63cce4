"""Name -> backbone."""

from __future__ import annotations

from collections.abc import Callable

from fedvlr_jax.models.backbone import Backbone
from fedvlr_jax.models.fcf import fcf
from fedvlr_jax.models.fedavg import fedavg
from fedvlr_jax.models.fedncf import fedncf
from fedvlr_jax.models.fedrap import fedrap
from fedvlr_jax.models.pfedrec import pfedrec

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "fedavg": lambda *, apart, sparse: fedavg(),
    "fcf": lambda *, apart, sparse: fcf(),
    "fedncf": lambda *, apart, sparse: fedncf(),
    "pfedrec": lambda *, apart, sparse: pfedrec(),
    "fedrap": lambda *, apart, sparse: fedrap(apart=apart, sparse=sparse),
}
