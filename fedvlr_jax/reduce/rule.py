"""The interface of an aggregation rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from fedvlr_jax.uplink.uploads import Needs, Upload, Uploads


class Reduce(NamedTuple):
    """A rule that combines the uploads of K clients into one upload.

    Attributes:
      needs: `Needs.WHOLE` if `combine` is given, else `Needs.SUM`.
      weights: (weight [K], responded bool [K]) -> alpha [K], the weight of each client in the sum;
        0 for a client that did not respond. A plan computes it before local training.
      combine: (uploads, alpha, responded) -> the combined upload. None: the sum weighted by alpha.
        It must not read the uploads of clients that did not respond.
      exact: True sums in fixed point, with equal bits on 1, 2, 4 and 8 devices.
    """

    needs: Needs
    weights: Callable[[jax.Array, jax.Array], jax.Array]
    combine: Callable[[Uploads, jax.Array, jax.Array], Upload] | None = None
    exact: bool = False
