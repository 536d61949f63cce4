"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from fedvlr_jax.uplink.uploads import Needs, Upload, Uploads


class Reduce(NamedTuple):
    """Many uploads -> one.

    Attributes:
      needs: SUM, or WHOLE where `combine` is given.
      weights: (weight [K], responded bool [K]) -> alpha [K], what each client counts in the sum;
        0 where it did not respond. The plans know it before they train.
      combine: (uploads, alpha, responded) -> the one upload; None: the sum by alpha. It must not
        read the uploads of clients that did not respond.
      exact: whether the sum is taken in fixed point, the same to the bit on 1, 2, 4 and 8
        devices.
    """

    needs: Needs
    weights: Callable[[jax.Array, jax.Array], jax.Array]
    combine: Callable[[Uploads, jax.Array, jax.Array], Upload] | None = None
    exact: bool = False
