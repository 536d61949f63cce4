"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.uplink.uploads import Needs, Upload, Uploads


class Reduce(NamedTuple):
    """Many uploads -> one.

    Attributes:
      needs: SUM, WHOLE where `combine` is given, or NORMS where `encode` is.
      weights: (weight [K], responded bool [K]) -> alpha [K], what each client counts in the sum;
        0 where it did not respond. The plans know it before they train.
      combine: (uploads, alpha, responded) -> the one upload; None: the sum by alpha. It must not
        read the uploads of clients that did not respond.
      exact: whether the sum is taken in fixed point, the same to the bit on 1, 2, 4 and 8
        devices.
      encode: (uploads, alpha [K], client [K], key of the round) -> (their sum as int32 arrays,
        clamped bool [K]), in place of the sum by alpha. decode: (the int32 sum over all clients,
        responded [K]) -> the one upload. Both or neither, and without `combine`.
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
