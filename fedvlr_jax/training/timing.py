"""The seconds of a run."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Seconds of one process.

    The medians leave out the first block, which contains the compilation; they are None for a
    process that trains one block only.
    """

    first_block_s: float
    round_s_median: float | None
    eval_s_median: float | None
    total_s: float


class Clock:
    """Seconds of the blocks of a run."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._blocks: list[tuple[int, float, float]] = []

    def block(self, num_rounds: int, train_s: float, eval_s: float) -> None:
        self._blocks.append((num_rounds, train_s, eval_s))

    @property
    def rounds_per_s(self) -> float:
        """Of the newest block, evaluation left out; 0 before the first."""
        num_rounds, train_s, _ = self._blocks[-1] if self._blocks else (0, 0.0, 0.0)
        return num_rounds / max(train_s, 1e-9)

    def read(self) -> Timing:
        total = time.perf_counter() - self._began
        if not self._blocks:
            return Timing(0.0, None, None, total)
        later = self._blocks[1:]
        median = lambda seconds: float(np.median(seconds)) if seconds else None
        return Timing(
            first_block_s=self._blocks[0][1],
            round_s_median=median([t / max(n, 1) for n, t, _ in later]),
            eval_s_median=median([e for _, _, e in later]),
            total_s=total,
        )
