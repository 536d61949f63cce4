"""The interface of an aggregation rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.uplink.uploads import Needs, Upload, Uploads


class Reduce(NamedTuple):
    """A rule that combines the uploads of K clients into one upload.

    Attributes:
      needs: `Needs.WHOLE` if `combine` is given, at least `Needs.NORMS` if `encode` is, else
        `Needs.SUM`.
      weights: (weight [K], responded bool [K]) -> alpha [K], the weight of each client in the sum;
        0 for a client that did not respond. A plan computes it before local training.
      combine: (uploads, alpha, responded) -> the combined upload. None: the sum weighted by alpha.
        It must not read the uploads of clients that did not respond.
      exact: True sums in fixed point, with equal bits on 1, 2, 4 and 8 CPU devices.
      encode: (uploads, alpha [K], client [K], key of the round) -> (their sum as int32 arrays,
        clamped bool [K]); replaces the sum by alpha. It goes with `decode`, and not with `combine`.
      decode: (the int32 sum over all clients, responded [K]) -> the combined upload.
    """

    needs: Needs
    weights: Callable[[jax.Array, jax.Array], jax.Array]
    combine: Callable[[Uploads, jax.Array, jax.Array], Upload] | None = None
    exact: bool = False
    encode: Callable[..., tuple[Upload, jax.Array]] | None = None
    decode: Callable[[Upload, jax.Array], Upload] | None = None

    @property
    def sum_type(self) -> type | None:
        """The dtype of a sum of uploads; None for that of the uploads."""
        return None if self.encode is None else jnp.int32
